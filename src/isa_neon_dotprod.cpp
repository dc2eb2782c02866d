// The kernels for NEON with byte dot products for int8 activations.
#include "kernels.h"

#if defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>

#define VECTOR_BYTES 16
#define TTQ_NEON
#define DOT_BYTES
#define FOUR_QUADS

namespace ttq::neon_dotprod {

#include "common_kernels.h"
#include "subset_sums.h"
#include "panel_neon.h"
#include "panel_short_dotprod.h"
#include "tile_byte_neon.h"
#include "tile_byte.h"

static constexpr Kernels make_kernels() {
  Kernels kernels = common_kernels("neon-dotprod", 10, kNever);
  kernels.panel_tables_float = panel_tables_float;
  kernels.panel_tables_short = panel_tables_dotprod;
  kernels.panel_float = panel_float;
  kernels.panel_short = panel_short_dotprod;
  set_tile_byte(kernels);
  return kernels;
}

static constexpr Kernels kKernels = make_kernels();

}  // namespace ttq::neon_dotprod

const ttq::Kernels* ttq::neon_dotprod_kernels() { return &neon_dotprod::kKernels; }
#else
const ttq::Kernels* ttq::neon_dotprod_kernels() { return nullptr; }
#endif
