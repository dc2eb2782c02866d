// Tiles of int8 activations by lookup: for four channels of a pixel a table of 16 bytes holds the
// sums of their subsets, from which a byte shuffle takes those of 16 outputs; each 128-bit lane
// holds the table of another pixel. Included by isa_*.cpp inside its own namespace.
//
// A sum plus kTableOffset lies in [0, 1016] and is kept as two digits to base 32, each in a table of
// its own; bytes hold the digits of kTableRun sums, 16 bits those of kMostTableQuads.

#if VECTOR_BYTES == 64
#define WIDE(operation) _mm512_##operation
#define WHOLE(operation) _mm512_##operation##_si512
typedef __m512i TableVec;
constexpr int kTableVectors = 4;
static inline TableVec in_every_lane(const uint8_t* bytes) {
  return _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(bytes)));
}
#else
#define WIDE(operation) _mm256_##operation
#define WHOLE(operation) _mm256_##operation##_si256
typedef __m256i TableVec;
constexpr int kTableVectors = 2;
static inline TableVec in_every_lane(const uint8_t* bytes) {
  return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(bytes)));
}
#endif
constexpr int kTableLanes = VECTOR_BYTES / 16;
constexpr int64_t kTableRun = 8;

static inline TableVec load_tables(const uint8_t* tables) {
  return WHOLE(loadu)(reinterpret_cast<const TableVec*>(tables));
}

// In place, which compilers would not do: they run out of registers.
static inline void add_bytes(TableVec& sum, TableVec value) {
#ifdef TTQ_EMULATE
  sum = WIDE(add_epi8)(sum, value);
#else
  __asm__ volatile("vpaddb %1, %0, %0" : "+v"(sum) : "v"(value));
#endif
}

// Low and high digits of P and N.
struct TableSums {
  TableVec plus_low, minus_low, plus_high, minus_high;
};

static inline void add_lookups(const uint8_t* tables, TableVec plus, TableVec minus, TableVec& p,
                               TableVec& n) {
  TableVec table = load_tables(tables);
  IN_ORDER(table);
  add_bytes(p, WIDE(shuffle_epi8)(table, plus));
  add_bytes(n, WIDE(shuffle_epi8)(table, minus));
}

// 16-bit sums of P and N: rows 0-7 and 8-15 of each lane's pixel.
struct TableTotals {
  TableVec plus[2], minus[2];
};

static inline void widen_digits(TableVec low, TableVec high, TableVec* totals) {
  const TableVec base = WIDE(set1_epi16)(0x2001);  // bytes 1 and 32
  totals[0] = WIDE(add_epi16)(
      totals[0], WIDE(maddubs_epi16)(WIDE(unpacklo_epi8)(low, high), base));
  totals[1] = WIDE(add_epi16)(
      totals[1], WIDE(maddubs_epi16)(WIDE(unpackhi_epi8)(low, high), base));
}

static inline void store_totals(TableVec totals, __m128i offset, bool first, int32_t* sums) {
  alignas(64) int16_t lanes[VECTOR_BYTES / 2];
  WHOLE(store)(reinterpret_cast<TableVec*>(lanes), totals);
  for (int lane = 0; lane < kTableLanes; lane++) {
    const __m256i ints = _mm256_cvtepi16_epi32(
        _mm_sub_epi16(_mm_load_si128(reinterpret_cast<const __m128i*>(lanes + 8 * lane)), offset));
    __m256i* place = reinterpret_cast<__m256i*>(sums + lane * 2 * kTableOutputs);
    _mm256_storeu_si256(place, first ? ints : _mm256_add_epi32(ints, _mm256_loadu_si256(place)));
  }
}

template <int VECTORS>
static void tile_table_of(const TableTile& t) {
  TableTotals totals[VECTORS];
  for (int v = 0; v < VECTORS; v++)
    totals[v].plus[0] = totals[v].plus[1] = totals[v].minus[0] = totals[v].minus[1] =
        WHOLE(setzero)();
  for (int64_t begin = 0; begin < t.quads; begin += kTableRun) {
    const int64_t end = smaller(begin + kTableRun, t.quads);
    TableSums sums[VECTORS];
    for (int v = 0; v < VECTORS; v++)
      sums[v].plus_low = sums[v].minus_low = sums[v].plus_high = sums[v].minus_high =
          WHOLE(setzero)();
    for (int64_t q = begin; q < end; q++) {
      const TableVec plus = in_every_lane(t.codes + 32 * q);
      const TableVec minus = in_every_lane(t.codes + 32 * q + 16);
      const uint8_t* low = t.tables + t.offsets[q];
      const uint8_t* high = low + t.digit_stride;
      for (int v = 0; v < VECTORS; v++)
        add_lookups(low + v * VECTOR_BYTES, plus, minus, sums[v].plus_low, sums[v].minus_low);
      for (int v = 0; v < VECTORS; v++)
        add_lookups(high + v * VECTOR_BYTES, plus, minus, sums[v].plus_high, sums[v].minus_high);
    }
    for (int v = 0; v < VECTORS; v++) {
      widen_digits(sums[v].plus_low, sums[v].plus_high, totals[v].plus);
      widen_digits(sums[v].minus_low, sums[v].minus_high, totals[v].minus);
    }
  }
  const __m128i offset = _mm_set1_epi16(static_cast<int16_t>(t.quads * kTableOffset));
  for (int v = 0; v < VECTORS; v++) {
    int32_t* sums = t.sums + v * kTableLanes * 2 * kTableOutputs;
    for (int half = 0; half < 2; half++) {
      store_totals(totals[v].plus[half], offset, t.first, sums + 8 * half);
      store_totals(totals[v].minus[half], offset, t.first, sums + kTableOutputs + 8 * half);
    }
  }
}

template <int VECTORS>
static inline void tile_table_upto(const TableTile& t) {
  if constexpr (VECTORS > 1) {
    if (t.pixels <= (VECTORS - 1) * kTableLanes) return tile_table_upto<VECTORS - 1>(t);
  }
  tile_table_of<VECTORS>(t);
}

static void tile_table(const TableTile& t) { tile_table_upto<kTableVectors>(t); }

// Tables of `count` pixels of four channels, those of the next pixel `stride` bytes further on.
static void make_tables(const int8_t* x, int64_t count, int64_t stride, uint8_t* low,
                        uint8_t* high) {
  // Which of two channels are in the subsets 0 to 15.
  const __m256i first_two = _mm256_set1_epi64x(0x0101010000010000);
  const __m256i last_two = _mm256_setr_epi64x(0, 0x0001000100010001, 0x0100010001000100,
                                              0x0101010101010101);
  const __m256i offset = _mm256_set1_epi16(kTableOffset), digit = _mm256_set1_epi16(31);
  for (int64_t i = 0; i < count; i++, x += stride) {
    int16_t pairs[2];
    __builtin_memcpy(pairs, x, sizeof pairs);
    const __m256i sums = _mm256_add_epi16(
        _mm256_add_epi16(_mm256_maddubs_epi16(first_two, _mm256_set1_epi16(pairs[0])),
                         _mm256_maddubs_epi16(last_two, _mm256_set1_epi16(pairs[1]))),
        offset);
    const __m256i digits = _mm256_permute4x64_epi64(
        _mm256_packus_epi16(_mm256_and_si256(sums, digit), _mm256_srli_epi16(sums, 5)), 0xd8);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(low + 16 * i), _mm256_castsi256_si128(digits));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(high + 16 * i), _mm256_extracti128_si256(digits, 1));
  }
}

// Puts these tiles into a set's table.
static constexpr void set_tile_table(Kernels& kernels, float lookup_speed) {
  kernels.lookup_speed = lookup_speed;
  kernels.table_pixels = kTableVectors * kTableLanes;
  kernels.table_lanes = kTableLanes;
  kernels.tile_table = tile_table;
  kernels.make_tables = make_tables;
}

#undef WIDE
#undef WHOLE
