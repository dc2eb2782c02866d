// x86 intrinsics, or their emulation by SIMDe where TTQ_EMULATE is set (tests of instruction sets
// that the machine at hand lacks).
#pragma once

#ifdef TTQ_EMULATE
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#else
#include <immintrin.h>
#endif
