// The kernels for AVX-512 with VNNI's generation of instructions: F, BW, DQ, VL, VBMI and VNNI.
#include "kernels.h"

#if (defined(__AVX512VBMI__) && defined(__AVX512VNNI__)) || defined(TTQ_EMULATE)
#include "simd_x86.h"

#define VECTOR_BYTES 64
#ifdef TTQ_EMULATE
#define DOT_BYTES simde_mm512_dpbusd_epi32
#else
#define DOT_BYTES _mm512_dpbusd_epi32
#endif

namespace ttq::avx512 {

#include "common_kernels.h"
#include "panel_avx512.h"
#include "panel_sextets.h"
#include "panel_triples.h"
#include "tile_byte_x86.h"
#include "tile_byte.h"
#include "tile_table_x86.h"

static constexpr Kernels make_kernels() {
  Kernels kernels = common_kernels("avx512", 10, 48);
  set_panels(kernels);
  set_triples(kernels);
  set_sextets(kernels);
  set_tile_byte(kernels);
  set_tile_table(kernels, 1.5f);  // by counting, of Zen 4
  return kernels;
}

static constexpr Kernels kKernels = make_kernels();

}  // namespace ttq::avx512

const ttq::Kernels* ttq::avx512_kernels() { return &avx512::kKernels; }
#else
const ttq::Kernels* ttq::avx512_kernels() { return nullptr; }
#endif
