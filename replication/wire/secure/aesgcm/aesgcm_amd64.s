#include "textflag.h"

// All functions work on 512-bit registers, four blocks each; the other
// processors take crypto/cipher.

// Reverses the bytes of each block.
DATA reverse<>+0(SB)/8, $0x08090a0b0c0d0e0f
DATA reverse<>+8(SB)/8, $0x0001020304050607
GLOBL reverse<>(SB), RODATA|NOPTR, $16

// x^128 is x^127 + x^126 + x^121 + 1, in the order of bits that ghash works in.
DATA poly<>+0(SB)/8, $1
DATA poly<>+8(SB)/8, $0xc200000000000000
GLOBL poly<>(SB), RODATA|NOPTR, $16

// What the counters of four blocks in a row are ahead by, and four blocks.
DATA ahead<>+0(SB)/8, $0
DATA ahead<>+8(SB)/8, $0
DATA ahead<>+16(SB)/8, $1
DATA ahead<>+24(SB)/8, $0
DATA ahead<>+32(SB)/8, $2
DATA ahead<>+40(SB)/8, $0
DATA ahead<>+48(SB)/8, $3
DATA ahead<>+56(SB)/8, $0
GLOBL ahead<>(SB), RODATA|NOPTR, $64
DATA four<>+0(SB)/8, $4
DATA four<>+8(SB)/8, $0
GLOBL four<>(SB), RODATA|NOPTR, $16

// func subWord(w uint32) uint32
TEXT ·subWord(SB), NOSPLIT, $0-12
	MOVL            w+0(FP), AX
	VMOVD           AX, X0
	VPSHUFD         $0, X0, X0
	VAESKEYGENASSIST $0, X0, X0
	VMOVD           X0, AX
	MOVL            AX, ret+8(FP)
	RET

// One round on four registers, and on one.
#define ROUND4(key) \
	VAESENC key, Z0, Z0 \
	VAESENC key, Z1, Z1 \
	VAESENC key, Z2, Z2 \
	VAESENC key, Z3, Z3

#define ROUND1(key) \
	VAESENC key, Z0, Z0

// The counters of the next four blocks.
#define COUNT(block) \
	VPSHUFB Z6, Z4, block \
	VPADDD  Z7, Z4, Z4

// func ctr(k *keys, long bool, nonce *byte, counter uint32, dst, src *byte, n int)
//
// Z16 to Z30 are the round keys, Z4 the counters with their bytes reversed.
TEXT ·ctr(SB), NOSPLIT, $0-56
	MOVQ    k+0(FP), AX
	MOVBLZX long+8(FP), R8
	MOVQ    nonce+16(FP), BX
	MOVL    counter+24(FP), CX
	MOVQ    dst+32(FP), DI
	MOVQ    src+40(FP), SI
	MOVQ    n+48(FP), DX

	VBROADCASTI32X4 0(AX), Z16
	VBROADCASTI32X4 80(AX), Z21
	VBROADCASTI32X4 96(AX), Z22
	VBROADCASTI32X4 112(AX), Z23
	VBROADCASTI32X4 128(AX), Z24
	VBROADCASTI32X4 144(AX), Z25
	VBROADCASTI32X4 160(AX), Z26
	VBROADCASTI32X4 176(AX), Z27
	VBROADCASTI32X4 192(AX), Z28
	VBROADCASTI32X4 208(AX), Z29
	VBROADCASTI32X4 224(AX), Z30
	TESTL           R8, R8
	JZ              begin
	VBROADCASTI32X4 16(AX), Z17
	VBROADCASTI32X4 32(AX), Z18
	VBROADCASTI32X4 48(AX), Z19
	VBROADCASTI32X4 64(AX), Z20

begin:
	VBROADCASTI32X4 reverse<>(SB), Z6
	VBROADCASTI32X4 four<>(SB), Z7
	BSWAPL          CX
	VMOVQ           (BX), X4
	VPINSRD         $2, 8(BX), X4, X4
	VPINSRD         $3, CX, X4, X4
	VPSHUFB         X6, X4, X4
	VSHUFI32X4      $0, Z4, Z4, Z4
	VPADDD          ahead<>(SB), Z4, Z4

sixteen:
	CMPQ DX, $256
	JB   rest
	COUNT(Z0)
	COUNT(Z1)
	COUNT(Z2)
	COUNT(Z3)
	VPXORQ Z16, Z0, Z0
	VPXORQ Z16, Z1, Z1
	VPXORQ Z16, Z2, Z2
	VPXORQ Z16, Z3, Z3
	TESTL R8, R8
	JZ    sixteenShort
	ROUND4(Z17)
	ROUND4(Z18)
	ROUND4(Z19)
	ROUND4(Z20)

sixteenShort:
	ROUND4(Z21)
	ROUND4(Z22)
	ROUND4(Z23)
	ROUND4(Z24)
	ROUND4(Z25)
	ROUND4(Z26)
	ROUND4(Z27)
	ROUND4(Z28)
	ROUND4(Z29)
	VAESENCLAST Z30, Z0, Z0
	VAESENCLAST Z30, Z1, Z1
	VAESENCLAST Z30, Z2, Z2
	VAESENCLAST Z30, Z3, Z3
	VPXORQ      0(SI), Z0, Z0
	VPXORQ      64(SI), Z1, Z1
	VPXORQ      128(SI), Z2, Z2
	VPXORQ      192(SI), Z3, Z3
	VMOVDQU64   Z0, 0(DI)
	VMOVDQU64   Z1, 64(DI)
	VMOVDQU64   Z2, 128(DI)
	VMOVDQU64   Z3, 192(DI)
	ADDQ        $256, SI
	ADDQ        $256, DI
	SUBQ        $256, DX
	JMP         sixteen

rest:
	TESTQ DX, DX
	JZ    end
	MOVQ  $64, R9
	CMPQ  DX, R9
	CMOVQLT DX, R9
	MOVQ  $-1, R10
	BZHIQ R9, R10, R10
	KMOVQ R10, K1
	COUNT(Z0)
	VPXORQ Z16, Z0, Z0
	TESTL  R8, R8
	JZ     restShort
	ROUND1(Z17)
	ROUND1(Z18)
	ROUND1(Z19)
	ROUND1(Z20)

restShort:
	ROUND1(Z21)
	ROUND1(Z22)
	ROUND1(Z23)
	ROUND1(Z24)
	ROUND1(Z25)
	ROUND1(Z26)
	ROUND1(Z27)
	ROUND1(Z28)
	ROUND1(Z29)
	VAESENCLAST Z30, Z0, Z0
	VMOVDQU8.Z  (SI), K1, Z1
	VPXORQ      Z1, Z0, Z0
	VMOVDQU8    Z0, K1, (DI)
	ADDQ        R9, SI
	ADDQ        R9, DI
	SUBQ        R9, DX
	JMP         rest

end:
	VZEROUPPER
	RET

// Adds the products of four blocks and four powers to their sums: LO is Z9, HI
// Z12, and MI, of which the upper half belongs to HI and the lower to LO, Z10.
#define PRODUCT(blocks, powers) \
	VPCLMULQDQ $0x00, powers, blocks, Z13 \
	VPCLMULQDQ $0x01, powers, blocks, Z14 \
	VPCLMULQDQ $0x10, powers, blocks, Z15 \
	VPCLMULQDQ $0x11, powers, blocks, Z5 \
	VPXORQ     Z13, Z9, Z9 \
	VPTERNLOGD $0x96, Z14, Z15, Z10 \
	VPXORQ     Z5, Z12, Z12

#define CLEAR \
	VPXORQ Z9, Z9, Z9 \
	VPXORQ Z10, Z10, Z10 \
	VPXORQ Z12, Z12, Z12

// Makes X8 what the sums are modulo the polynomial, the four lanes together.
#define REDUCE \
	VPCLMULQDQ    $0x01, Z9, Z7, Z13 \
	VPSHUFD       $0x4e, Z9, Z9 \
	VPTERNLOGD    $0x96, Z13, Z9, Z10 \
	VPCLMULQDQ    $0x01, Z10, Z7, Z13 \
	VPSHUFD       $0x4e, Z10, Z10 \
	VPTERNLOGD    $0x96, Z13, Z10, Z12 \
	VEXTRACTI64X4 $1, Z12, Y13 \
	VPXOR         Y13, Y12, Y12 \
	VEXTRACTI128  $1, Y12, X13 \
	VPXOR         X13, X12, X8

// func ghash(p *powers, sum *block, data *byte, n int)
//
// Blocks have their bytes reversed, so that a carry-less product of two is
// theirs but for a factor x, which the powers bring along (see prepare).
TEXT ·ghash(SB), NOSPLIT, $0-32
	MOVQ p+0(FP), AX
	MOVQ sum+8(FP), BX
	MOVQ data+16(FP), SI
	MOVQ n+24(FP), DX

	VBROADCASTI32X4 reverse<>(SB), Z6
	VBROADCASTI32X4 poly<>(SB), Z7
	VMOVDQU         (BX), X8
	CMPQ            DX, $256
	JB              tail
	VMOVDQU64       0(AX), Z16
	VMOVDQU64       64(AX), Z17
	VMOVDQU64       128(AX), Z18
	VMOVDQU64       192(AX), Z19

blocks16:
	VMOVDQU64 0(SI), Z0
	VMOVDQU64 64(SI), Z1
	VMOVDQU64 128(SI), Z2
	VMOVDQU64 192(SI), Z3
	VPSHUFB   Z6, Z0, Z0
	VPSHUFB   Z6, Z1, Z1
	VPSHUFB   Z6, Z2, Z2
	VPSHUFB   Z6, Z3, Z3
	CLEAR
	PRODUCT(Z1, Z17)
	PRODUCT(Z2, Z18)
	PRODUCT(Z3, Z19)
	VPXORQ    Z8, Z0, Z0
	PRODUCT(Z0, Z16)
	REDUCE
	ADDQ      $256, SI
	SUBQ      $256, DX
	CMPQ      DX, $256
	JAE       blocks16

tail:
	TESTQ DX, DX
	JZ    done
	LEAQ  15(DX), CX
	ANDQ  $~15, CX
	LEAQ  256(AX), R8
	SUBQ  CX, R8
	CLEAR

tail4:
	MOVQ    $64, R9
	CMPQ    DX, R9
	CMOVQLT DX, R9
	MOVQ    $-1, R10
	BZHIQ   R9, R10, R10
	KMOVQ   R10, K1
	VMOVDQU8.Z (SI), K1, Z0
	VPSHUFB Z6, Z0, Z0
	VPXORQ  Z8, Z0, Z0
	VPXORQ  Z8, Z8, Z8
	VMOVDQU64 (R8), Z16
	PRODUCT(Z0, Z16)
	ADDQ    $64, R8
	ADDQ    R9, SI
	SUBQ    R9, DX
	JNZ     tail4
	REDUCE

done:
	VMOVDQU X8, (BX)
	VZEROUPPER
	RET
