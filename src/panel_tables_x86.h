// Tables of the int8 panel kernels that shuffle bytes, built with AVX2.
// Included by isa_*.cpp inside its own namespace.

// Subset sums of an int16 group, offset to 0..1016 and split in two digits of five bits, so that
// eight of each add up in a byte.
constexpr int kSumOffset = 4 * kCodeLimit;
constexpr int kDigitRun = 8;

// Both digits of one group, or of two, one in each 128-bit lane: first the lower ones.
static inline void short_planes(__m128i first, __m128i second, __m256i planes[2]) {
  const __m256i x = _mm256_inserti128_si256(_mm256_castsi128_si256(first), second, 1);
  const __m256i pick_a = _mm256_set1_epi32(-65536), digit = _mm256_set1_epi16(31);
  const __m256i pick_b = _mm256_set1_epi64x(static_cast<int64_t>(0xffffffff00000000u));
  const __m256i pick_c = _mm256_setr_epi64x(0, -1, 0, -1);
  // One activation in all places of a lane.
  const __m256i a = _mm256_shuffle_epi8(x, _mm256_set1_epi16(0x0100));
  const __m256i b = _mm256_shuffle_epi8(x, _mm256_set1_epi16(0x0302));
  const __m256i c = _mm256_shuffle_epi8(x, _mm256_set1_epi16(0x0504));
  const __m256i d = _mm256_shuffle_epi8(x, _mm256_set1_epi16(0x0706));
  const __m256i low = _mm256_add_epi16(
      _mm256_add_epi16(_mm256_set1_epi16(kSumOffset), _mm256_and_si256(a, pick_a)),
      _mm256_add_epi16(_mm256_and_si256(b, pick_b), _mm256_and_si256(c, pick_c)));
  const __m256i high = _mm256_add_epi16(low, d);
  planes[0] = _mm256_packus_epi16(_mm256_and_si256(low, digit), _mm256_and_si256(high, digit));
  planes[1] = _mm256_packus_epi16(_mm256_srli_epi16(low, 5), _mm256_srli_epi16(high, 5));
}

static void panel_tables_short(const int16_t* x, int64_t groups, void* tables) {
  __m256i* table = static_cast<__m256i*>(tables);
  __m256i planes[2];
  int64_t g = 0;
  for (; g + 2 <= groups; g += 2) {
    const __m128i both = _mm_loadu_si128(reinterpret_cast<const __m128i*>(x + 4 * g));
    short_planes(both, _mm_unpackhi_epi64(both, both), planes);
    _mm256_store_si256(table + g, _mm256_permute2x128_si256(planes[0], planes[1], 0x20));
    _mm256_store_si256(table + g + 1, _mm256_permute2x128_si256(planes[0], planes[1], 0x31));
  }
  if (g == groups) return;
  const __m128i last = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(x + 4 * g));
  short_planes(last, last, planes);
  _mm256_store_si256(table + g, _mm256_permute2x128_si256(planes[0], planes[1], 0x20));
}
