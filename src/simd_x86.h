// x86 intrinsics, or their emulation by SIMDe where TTQ_EMULATE is set (tests of instruction sets
// that the machine at hand lacks).
#pragma once

#include <cstdint>

#ifdef TTQ_EMULATE
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

// Not in SIMDe 0.7, or with a wrong alias.
#undef _mm512_madd_epi16
#define _mm512_madd_epi16 simde_mm512_madd_epi16
static inline simde__m512i _mm512_mulhi_epu16(simde__m512i a, simde__m512i b) {
  uint16_t x[32], y[32];
  simde_mm512_storeu_si512(x, a);
  simde_mm512_storeu_si512(y, b);
  for (int i = 0; i < 32; i++) x[i] = static_cast<uint16_t>(uint32_t{x[i]} * y[i] >> 16);
  return simde_mm512_loadu_si512(x);
}
#else
#include <immintrin.h>
#endif

// Marks around inner loops for llvm-mca (benchmarks/kernel_throughput.py).
#ifdef TTQ_MARK_LOOPS
#define LOOP_BEGIN(name, number) __asm__ volatile("# LLVM-MCA-BEGIN " name ::"i"(number))
#define LOOP_END(name, number) __asm__ volatile("# LLVM-MCA-END " name ::"i"(number))
#else
#define LOOP_BEGIN(name, number)
#define LOOP_END(name, number)
#endif

// Keeps compilers from computing or loading this vector later, or again: left to themselves they
// run out of registers.
#ifdef TTQ_EMULATE
#define IN_ORDER(vector)
#else
#define IN_ORDER(vector) __asm__ volatile("" : "+v"(vector))
#endif
