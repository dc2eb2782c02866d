// The kernels for AVX-512 without VBMI and VNNI (F, BW, DQ, VL).
#include "kernels.h"

#if defined(__AVX512BW__) || defined(TTQ_EMULATE)
#include "simd_x86.h"

#define VECTOR_BYTES 64

namespace ttq::avx512_plain {

#include "common_kernels.h"
#include "panel_avx512.h"
#include "panel_triples.h"
#include "tile_byte_x86.h"
#include "tile_byte.h"
#include "tile_table_x86.h"

static constexpr Kernels make_kernels() {
  Kernels kernels = common_kernels("avx512-plain", 10, 48);
  set_panels(kernels);
  set_triples(kernels);
  set_tile_byte(kernels);
  set_tile_table(kernels, 1.45f);  // as of AVX2
  return kernels;
}

static constexpr Kernels kKernels = make_kernels();

}  // namespace ttq::avx512_plain

const ttq::Kernels* ttq::avx512_plain_kernels() { return &avx512_plain::kKernels; }
#else
const ttq::Kernels* ttq::avx512_plain_kernels() { return nullptr; }
#endif
