// The kernels for AVX-512 with VNNI's generation of instructions: F, BW, DQ, VL and VBMI.
#include "kernels.h"

#if defined(__AVX512VBMI__) || defined(TTQ_EMULATE)
#include "simd_x86.h"

#define VECTOR_BYTES 64

namespace ttq::avx512 {

#include "common_kernels.h"
#include "panel_avx512.h"
#include "panel_sextets.h"
#include "panel_triples.h"

static const Kernels kKernels = {
    "avx512",
    VECTOR_BYTES,
    10,
    48,
    largest,
    quantize,
    lane_tables<float>,
    lane_tables<int16_t>,
    lane_lookup_float,
    lane_lookup_short,
    finish_float,
    finish_int,
    panel_tables_plain,
    panel_tables_short,
    panel_float,
    panel_short,
    dense_rows,
    triple_tables,
    triple_sums,
    triple_totals,
    sextet_tables,
    sextet_sums,
};

}  // namespace ttq::avx512

const ttq::Kernels* ttq::avx512_kernels() { return &avx512::kKernels; }
#else
const ttq::Kernels* ttq::avx512_kernels() { return nullptr; }
#endif
