// The kernels for AVX-512 without VBMI (F, BW, DQ, VL).
#include "kernels.h"

#if defined(__AVX512BW__) || defined(TTQ_EMULATE)
#include "simd_x86.h"

#define VECTOR_BYTES 64

namespace ttq::avx512_plain {

#include "common_kernels.h"
#include "panel_avx512.h"
#include "panel_triples.h"

static const Kernels kKernels = {
    "avx512-plain",
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
};

}  // namespace ttq::avx512_plain

const ttq::Kernels* ttq::avx512_plain_kernels() { return &avx512_plain::kKernels; }
#else
const ttq::Kernels* ttq::avx512_plain_kernels() { return nullptr; }
#endif
