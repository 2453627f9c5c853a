#include "textflag.h"

// func vfork(flags uintptr) (pid, errno uintptr)
//
// The return address stays in the link register: this function has no frame that a child on the same stack could overwrite.
TEXT ·vfork(SB),NOSPLIT,$0-24
	MOVD	flags+0(FP), R0
	MOVD	$0, R1
	MOVD	$0, R2
	MOVD	$0, R3
	MOVD	$0, R4
	MOVD	$0, R5
	MOVD	$220, R8	// clone
	SVC
	CMN	$4095, R0
	BCC	done
	NEG	R0, R0
	MOVD	$-1, R4
	MOVD	R4, pid+8(FP)
	MOVD	R0, errno+16(FP)
	RET
done:
	MOVD	R0, pid+8(FP)
	MOVD	ZR, errno+16(FP)
	RET
