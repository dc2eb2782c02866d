// The kernels for AVX2. The panel kernels look up by vpshufb.
#include "kernels.h"

#if defined(__AVX2__) && defined(__FMA__)
#include "simd_x86.h"

#define VECTOR_BYTES 32

namespace ttq::avx2 {

#include "common_kernels.h"
#include "panel_float_avx2.h"
#include "panel_short_avx2.h"
#include "panel_fixed_avx2.h"
#include "tile_byte_x86.h"
#include "tile_byte.h"
#include "tile_table_x86.h"

static constexpr Kernels make_kernels() {
  Kernels kernels = common_kernels("avx2", 5, kNever);
  kernels.panel_tables_float = panel_tables_float;
  kernels.short_table_bytes = kShuffledTableBytes;
  kernels.panel_tables_short = panel_tables_short;
  set_fixed(kernels);
  kernels.panel_float = panel_float;
  kernels.panel_short = panel_short;
  set_tile_byte(kernels);
  set_tile_table(kernels, 1.45f);  // measured on Zen 3
  return kernels;
}

static constexpr Kernels kKernels = make_kernels();

}  // namespace ttq::avx2

const ttq::Kernels* ttq::avx2_kernels() { return &avx2::kKernels; }
#else
const ttq::Kernels* ttq::avx2_kernels() { return nullptr; }
#endif
