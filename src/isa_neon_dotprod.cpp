// The kernels for NEON with byte dot products for int8 activations.
#include "kernels.h"

#if defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>

#define VECTOR_BYTES 16

namespace ttq::neon_dotprod {

#include "common_kernels.h"
#include "subset_sums.h"
#include "panel_neon.h"
#include "panel_short_dotprod.h"

static const Kernels kKernels = {
    "neon-dotprod",
    VECTOR_BYTES,
    10,
    kNever,
    largest,
    quantize,
    lane_tables<float>,
    lane_tables<int16_t>,
    lane_lookup_float,
    lane_lookup_short,
    finish_float,
    finish_int,
    panel_tables_float,
    panel_tables_dotprod,
    panel_float,
    panel_short_dotprod,
    dense_rows,
};

}  // namespace ttq::neon_dotprod

const ttq::Kernels* ttq::neon_dotprod_kernels() { return &neon_dotprod::kKernels; }
#else
const ttq::Kernels* ttq::neon_dotprod_kernels() { return nullptr; }
#endif
