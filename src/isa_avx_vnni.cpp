// The kernels for AVX-VNNI: AVX2's, with byte dot products for int8 activations.
#include "kernels.h"

#if defined(__AVXVNNI__) || defined(TTQ_EMULATE)
#include "simd_x86.h"

#define VECTOR_BYTES 32
#ifdef TTQ_EMULATE
#define DOT_BYTES simde_mm256_dpbusd_epi32
#else
#define DOT_BYTES _mm256_dpbusd_avx_epi32
#endif

namespace ttq::avx_vnni {

#include "common_kernels.h"
#include "panel_fixed_avx2.h"
#include "panel_float_avx2.h"
#include "panel_short_vnni.h"
#include "tile_byte_x86.h"
#include "tile_byte.h"

static constexpr Kernels make_kernels() {
  Kernels kernels = common_kernels("avx-vnni", 5, kNever);
  set_fixed(kernels);
  kernels.panel_tables_float = panel_tables_float;
  kernels.panel_tables_short = panel_tables_vnni;
  kernels.panel_float = panel_float;
  kernels.panel_short = panel_short_vnni;
  set_tile_byte(kernels);
  return kernels;
}

static constexpr Kernels kKernels = make_kernels();

}  // namespace ttq::avx_vnni

const ttq::Kernels* ttq::avx_vnni_kernels() { return &avx_vnni::kKernels; }
#else
const ttq::Kernels* ttq::avx_vnni_kernels() { return nullptr; }
#endif
