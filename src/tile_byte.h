// The byte tile: exact P and N, four columns (a quad) of all outputs an instruction. Included by
// isa_*.cpp inside its own namespace, after what the set offers for it:
//
//   kTileWidthByte, kTilePixelsByte  outputs and most pixels
//   kTileQuads                       quads that add up in a ByteSum before it must be widened
//   ByteVec, ByteSum                 a quad's weights of one sign; sums of it for a pixel
//   load_quad, repeat_four, no_sums, add_products, add_to_ints, spread_codes
//   FOUR_QUADS, add_four_quads       where four quads at once are faster

template <int PIXELS>
struct ByteSums {
  ByteSum pos[PIXELS], neg[PIXELS];
};

template <int PIXELS>
static inline void add_quads(const int8_t* const* pixels, int64_t offset, int64_t quads,
                             const uint8_t* weights, ByteSums<PIXELS>& sums) {
  const int8_t* x[PIXELS];
  for (int p = 0; p < PIXELS; p++) x[p] = pixels[p] + offset;
  int64_t q = 0;
#ifdef FOUR_QUADS
  for (; q + 4 <= quads; q += 4, weights += 32 * kTileWidthByte) {
    const int8_t* now[PIXELS];
    for (int p = 0; p < PIXELS; p++) now[p] = x[p] + 4 * q;
    add_four_quads<PIXELS>(now, weights, sums.pos, sums.neg);
  }
#endif
  for (; q < quads; q++, weights += 8 * kTileWidthByte) {
    LOOP_BEGIN("tile-int8-%c0", PIXELS);
    const ByteVec plus = load_quad(weights), minus = load_quad(weights + 4 * kTileWidthByte);
    for (int p = 0; p < PIXELS; p++) {
      const auto four = repeat_four(x[p] + 4 * q);
      sums.pos[p] = add_products(sums.pos[p], plus, four);
      sums.neg[p] = add_products(sums.neg[p], minus, four);
    }
    LOOP_END("tile-int8-%c0", PIXELS);
  }
}

template <int PIXELS>
static void tile_byte_of(const Tile& tile) {
  const int8_t* const* pixels = reinterpret_cast<const int8_t* const*>(tile.pixels);
  const uint8_t* weights = static_cast<const uint8_t*>(tile.weights);
  int32_t* out = static_cast<int32_t*>(tile.sums);
  bool first = tile.first;
  int64_t run = 0, done = 0;  // done: quads of this run
  while (run < tile.run_count) {
    ByteSums<PIXELS> sums;
    for (int p = 0; p < PIXELS; p++) sums.pos[p] = sums.neg[p] = no_sums();
    for (int64_t room = kTileQuads; room > 0 && run < tile.run_count;) {
      const int64_t left = tile.runs[run].length / 4 - done, now = smaller(left, room);
      add_quads<PIXELS>(pixels, tile.runs[run].offset + 4 * done, now, weights, sums);
      weights += now * 8 * kTileWidthByte;
      room -= now;
      done += now;
      if (now == left) {
        run++;
        done = 0;
      }
    }
    for (int p = 0; p < PIXELS; p++) {
      add_to_ints(sums.pos[p], first, out + 2 * kTileWidthByte * p);
      add_to_ints(sums.neg[p], first, out + 2 * kTileWidthByte * p + kTileWidthByte);
    }
    first = false;
  }
}

template <int PIXELS>
static inline void tile_byte_upto(const Tile& tile) {
  if constexpr (PIXELS > 1) {
    if (tile.count < PIXELS) return tile_byte_upto<PIXELS - 1>(tile);
  }
  tile_byte_of<PIXELS>(tile);
}

static void tile_byte(const Tile& tile) { tile_byte_upto<kTilePixelsByte>(tile); }

static void decode_byte(const TileDecode& d) {
  uint8_t* out = static_cast<uint8_t*>(d.weights);
  if (d.rows == kTileWidthByte) {
    const uint8_t* const codes = d.codes;  // copies, which bytes stored cannot change
    const int32_t* const places = d.places;
    const int64_t stride = d.stride, quads = d.quads;
    for (int64_t q = 0; q < quads; q++, out += 8 * kTileWidthByte)
      spread_codes(codes + places[q] * stride, out);
    return;
  }
  uint8_t copy[kTileWidthByte] = {};
  for (int64_t q = 0; q < d.quads; q++, out += 8 * kTileWidthByte)
    spread_codes(quad_bytes<kTileWidthByte>(d, q, copy), out);
}

// Puts the byte tile into a set's table.
static constexpr void set_tile_byte(Kernels& kernels) {
  kernels.tile_pixels_byte = kTilePixelsByte;
  kernels.tile_width_byte = kTileWidthByte;
  kernels.tile_byte = tile_byte;
  kernels.decode_byte = decode_byte;
  kernels.finish_tile_byte = finish_tile_byte<kTileWidthByte>;
}
