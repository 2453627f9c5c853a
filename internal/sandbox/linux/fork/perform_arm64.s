#include "textflag.h"

// func perform(flags uintptr, calls *call, count int, failure *failedCall) (pid, errno uintptr)
//
// The child keeps everything in registers, which system calls preserve, and never touches the stack: it may share it with a parent that
// has gone on.
TEXT ·perform(SB),NOSPLIT|NOFRAME,$0-48
	MOVD	flags+0(FP), R0
	MOVD	calls+8(FP), R19
	MOVD	count+16(FP), R20
	MOVD	failure+24(FP), R21
	MOVD	$0, R1
	MOVD	$0, R2
	MOVD	$0, R3
	MOVD	$0, R4
	MOVD	$0, R5
	MOVD	$220, R8	// clone
	SVC
	CMN	$4095, R0
	BCS	refused
	CBZ	R0, child
	MOVD	R0, pid+32(FP)
	MOVD	ZR, errno+40(FP)
	RET
refused:
	NEG	R0, R0
	MOVD	ZR, pid+32(FP)
	MOVD	R0, errno+40(FP)
	RET
child:
	MOVD	$0, R22
next:
	CMP	R20, R22
	BEQ	end
	ADD	$1, R22
	MOVD	0(R19), R8
	MOVD	8(R19), R0
	MOVD	16(R19), R1
	MOVD	24(R19), R2
	MOVD	32(R19), R3
	MOVD	40(R19), R4
	MOVD	48(R19), R5
	SVC
	MOVD	$0, R23
	CMN	$4095, R0
	BCC	done
	NEG	R0, R23
done:
	MOVD	56(R19), R24
	CMP	R24, R23
	BNE	failed
	ADD	$64, R19
	B	next
failed:
	MOVD	R23, 8(R21)
	MOVD	R22, 0(R21)
end:
	MOVD	$127, R0
	MOVD	$94, R8	// exit_group
	SVC
	B	end
