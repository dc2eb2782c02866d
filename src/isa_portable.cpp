// The kernels in plain C++, for any CPU.
#include "kernels.h"

#define VECTOR_BYTES 16

namespace ttq::portable {

#include "common_kernels.h"
#include "panel_portable.h"

static const Kernels kKernels = {
    "portable",
    VECTOR_BYTES,
    2,
    2,
    largest,
    quantize,
    lane_tables<float>,
    lane_tables<int16_t>,
    lane_lookup_float,
    lane_lookup_short,
    finish_float,
    finish_int,
    panel_tables<float>,
    panel_tables<int16_t>,
    panel<float, float>,
    panel<int16_t, int32_t>,
    dense_rows,
};

}  // namespace ttq::portable

const ttq::Kernels* ttq::portable_kernels() { return &portable::kKernels; }
