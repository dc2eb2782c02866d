// Tiles of byte weights in plain C++, for sets without any of their own. Included by
// common_kernels.h.

constexpr int kPlainTileWidth = 16;
constexpr int kPlainTilePixels = 4;

static void tile_byte_plain(const Tile& t) {
  constexpr int W = kPlainTileWidth;
  int32_t* sums = static_cast<int32_t*>(t.sums);
  for (int p = 0; p < t.count; p++, sums += 2 * W) {
    int32_t totals[2][W] = {};
    const uint8_t* w = static_cast<const uint8_t*>(t.weights);
    for (int64_t r = 0; r < t.run_count; r++) {
      const int8_t* x = static_cast<const int8_t*>(t.pixels[p]) + t.runs[r].offset;
      for (int64_t k = 0; k < t.runs[r].length; k += 4, w += 8 * W)
        for (int s = 0; s < 2; s++)
          for (int i = 0; i < W; i++)
            for (int j = 0; j < 4; j++)
              totals[s][i] += w[s * 4 * W + 4 * i + j] * x[k + j];
    }
    for (int s = 0; s < 2; s++)
      for (int i = 0; i < W; i++)
        sums[s * W + i] = t.first ? totals[s][i] : sums[s * W + i] + totals[s][i];
  }
}

template <int W>
static void decode_byte_plain(const TileDecode& d) {
  uint8_t copy[W] = {};
  uint8_t* out = static_cast<uint8_t*>(d.weights);
  for (int64_t q = 0; q < d.quads; q++) {
    const uint8_t* bytes = quad_bytes<W>(d, q, copy);
    for (int s = 0; s < 2; s++)
      for (int i = 0; i < W; i++)
        for (int t = 0; t < 4; t++) *out++ = bytes[i] >> (4 * s + t) & 1;
  }
}
