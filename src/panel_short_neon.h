// The int8 panel kernel by TBL: 16 rows a vector. Included by isa_*.cpp inside its own namespace.

// Subset sums of an int16 group, offset to 0..1016 and split in two digits of five bits, so that
// eight of each add up in a byte.
constexpr int kSumOffset = 4 * kCodeLimit;
constexpr int kDigitRun = 8;

static void panel_tables_short(const int16_t* x, int64_t groups, void* tables) {
  for (int64_t g = 0; g < groups; g++) {
    int16_t sums[kTableEntries];
    subset_sums(x + 4 * g, sums);
    uint8_t* place = static_cast<uint8_t*>(tables) + g * kPanelTableBytes;
    for (int e = 0; e < kTableEntries; e++) {
      const int sum = sums[e] + kSumOffset;
      place[e] = static_cast<uint8_t>(sum & 31);
      place[16 + e] = static_cast<uint8_t>(sum >> 5);
    }
  }
}

struct DigitSums {
  uint16x8_t low[2], high[2];
};

static inline void widen(uint8x16_t bytes, uint16x8_t sums[2]) {
  sums[0] = vaddw_u8(sums[0], vget_low_u8(bytes));
  sums[1] = vaddw_high_u8(sums[1], bytes);
}

static inline void store_ints(const DigitSums& sums, int64_t groups, int32_t* out) {
  const int32_t offset = static_cast<int32_t>(groups) * kSumOffset;
  for (int half = 0; half < 2; half++) {
    uint16_t low[8], high[8];
    vst1q_u16(low, sums.low[half]);
    vst1q_u16(high, sums.high[half]);
    for (int i = 0; i < 8; i++) out[8 * half + i] = low[i] + 32 * high[i] - offset;
  }
}

static void panel_short(const void* tables, const uint8_t* codes, int64_t groups, int32_t* pos,
                        int32_t* neg) {
  for (int row = 0; row < kPanelRows; row += 16) {
    const uint16x8_t none = vdupq_n_u16(0);
    DigitSums p = {{none, none}, {none, none}}, n = p;
    for (int64_t first = 0; first < groups; first += kDigitRun) {
      const int64_t end = smaller(first + kDigitRun, groups);
      uint8x16_t pos_low = vdupq_n_u8(0), pos_high = pos_low, neg_low = pos_low,
                 neg_high = pos_low;
      for (int64_t g = first; g < end; g++) {
        const uint8_t* table = static_cast<const uint8_t*>(tables) + g * kPanelTableBytes;
        const uint8x16_t low = vld1q_u8(table), high = vld1q_u8(table + 16);
        const uint8x16_t code = vld1q_u8(codes + g * kPanelRows + row);
        const uint8x16_t plus = vandq_u8(code, vdupq_n_u8(15)), minus = vshrq_n_u8(code, 4);
        pos_low = vaddq_u8(pos_low, vqtbl1q_u8(low, plus));
        pos_high = vaddq_u8(pos_high, vqtbl1q_u8(high, plus));
        neg_low = vaddq_u8(neg_low, vqtbl1q_u8(low, minus));
        neg_high = vaddq_u8(neg_high, vqtbl1q_u8(high, minus));
      }
      widen(pos_low, p.low);
      widen(pos_high, p.high);
      widen(neg_low, n.low);
      widen(neg_high, n.high);
    }
    store_ints(p, groups, pos + row);
    store_ints(n, groups, neg + row);
  }
}
