#include "textflag.h"

// func perform(flags uintptr, calls *call, count int, failure *failedCall) (pid, errno uintptr)
//
// The child keeps everything in registers, which system calls preserve, and never touches the stack: it may share it with a parent that
// has gone on.
TEXT ·perform(SB),NOSPLIT|NOFRAME,$0-48
	MOVQ	flags+0(FP), DI
	MOVQ	calls+8(FP), R12
	MOVQ	count+16(FP), R13
	MOVQ	failure+24(FP), BX
	MOVQ	$0, SI
	MOVQ	$0, DX
	MOVQ	$0, R10
	MOVQ	$0, R8
	MOVQ	$0, R9
	MOVQ	$56, AX	// clone
	SYSCALL
	CMPQ	AX, $0xfffffffffffff001
	JCC	refused
	TESTQ	AX, AX
	JEQ	child
	MOVQ	AX, pid+32(FP)
	MOVQ	$0, errno+40(FP)
	RET
refused:
	NEGQ	AX
	MOVQ	$0, pid+32(FP)
	MOVQ	AX, errno+40(FP)
	RET
child:
	MOVQ	$0, R15
next:
	CMPQ	R15, R13
	JEQ	end
	INCQ	R15
	MOVQ	0(R12), AX
	MOVQ	8(R12), DI
	MOVQ	16(R12), SI
	MOVQ	24(R12), DX
	MOVQ	32(R12), R10
	MOVQ	40(R12), R8
	MOVQ	48(R12), R9
	SYSCALL
	MOVQ	$0, CX
	CMPQ	AX, $0xfffffffffffff001
	JCS	done
	NEGQ	AX
	MOVQ	AX, CX
done:
	CMPQ	CX, 56(R12)
	JNE	failed
	ADDQ	$64, R12
	JMP	next
failed:
	MOVQ	CX, 8(BX)
	MOVQ	R15, 0(BX)
end:
	MOVQ	$127, DI
	MOVQ	$231, AX	// exit_group
	SYSCALL
	JMP	end
