// The byte tile by vpmaddubsw: exact P and N of eight outputs and up to six pixels. Included by
// isa_*.cpp inside its own namespace.
//
// Weights are the unsigned operand, 0 or 1, activations the signed one. A 16-bit lane takes two
// products of at most 127, so that 128 quads (four columns) add up before they must be widened. Two
// multiplications and two additions for 32 codes: four vector operations, all that Zen 3 starts in
// a cycle.

constexpr int kTileWidthByte = 8;
constexpr int kTilePixelsByte = 6;
constexpr int kTileQuads = 128;  // 128 * 2 * 127 < 2^15

static inline __m256i four_activations(const int8_t* x) {
  int32_t word;
  __builtin_memcpy(&word, x, sizeof word);
  return _mm256_set1_epi32(word);
}

template <int PIXELS>
static inline void add_quads(const int8_t* const* pixels, int64_t offset, int64_t quads,
                             const uint8_t* weights, __m256i pos[PIXELS], __m256i neg[PIXELS]) {
  const int8_t* x[PIXELS];
  for (int i = 0; i < PIXELS; i++) x[i] = pixels[i] + offset;
  for (int64_t q = 0; q < quads; q++, weights += 8 * kTileWidthByte) {
    LOOP_BEGIN("tile-int8-%c0", PIXELS);
    const __m256i plus = _mm256_load_si256(reinterpret_cast<const __m256i*>(weights));
    const __m256i minus = _mm256_load_si256(reinterpret_cast<const __m256i*>(weights + 32));
    for (int i = 0; i < PIXELS; i++) {
      const __m256i four = four_activations(x[i] + 4 * q);
      pos[i] = _mm256_add_epi16(pos[i], _mm256_maddubs_epi16(plus, four));
      neg[i] = _mm256_add_epi16(neg[i], _mm256_maddubs_epi16(minus, four));
    }
    LOOP_END("tile-int8-%c0", PIXELS);
  }
}

// Adds the pairs of 16-bit sums to eight of 32 bits, or stores them where these are the first.
static inline void widen_pairs(__m256i pairs, bool first, int32_t* sums) {
  __m256i* place = reinterpret_cast<__m256i*>(sums);
  const __m256i wide = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
  _mm256_storeu_si256(place, first ? wide : _mm256_add_epi32(_mm256_loadu_si256(place), wide));
}

template <int PIXELS>
static void tile_byte_of(const Tile& tile) {
  const int8_t* const* pixels = reinterpret_cast<const int8_t* const*>(tile.pixels);
  const uint8_t* weights = static_cast<const uint8_t*>(tile.weights);
  int32_t* sums = static_cast<int32_t*>(tile.sums);
  bool first = tile.first;
  int64_t run = 0, done = 0;  // done: of this run
  while (run < tile.run_count) {
    __m256i pos[PIXELS], neg[PIXELS];
    for (int i = 0; i < PIXELS; i++) pos[i] = neg[i] = _mm256_setzero_si256();
    for (int64_t room = kTileQuads; room > 0 && run < tile.run_count;) {
      const int64_t left = tile.runs[run].length / 4 - done, now = left < room ? left : room;
      add_quads<PIXELS>(pixels, tile.runs[run].offset + 4 * done, now, weights, pos, neg);
      weights += now * 8 * kTileWidthByte;
      room -= now;
      done += now;
      if (now == left) {
        run++;
        done = 0;
      }
    }
    for (int i = 0; i < PIXELS; i++) {
      widen_pairs(pos[i], first, sums + 2 * kTileWidthByte * i);
      widen_pairs(neg[i], first, sums + 2 * kTileWidthByte * i + kTileWidthByte);
    }
    first = false;
  }
}

static void tile_byte(const Tile& tile) {
  switch (tile.count) {
    case 1: return tile_byte_of<1>(tile);
    case 2: return tile_byte_of<2>(tile);
    case 3: return tile_byte_of<3>(tile);
    case 4: return tile_byte_of<4>(tile);
    case 5: return tile_byte_of<5>(tile);
    default: return tile_byte_of<6>(tile);
  }
}
