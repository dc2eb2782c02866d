#include "windows.h"

#include <algorithm>

namespace ttq {
Windows::Windows(const Conv2dShape& s, SourceStrides strides, bool bytes, int64_t most_quads) {
  const int64_t channels = s.channels / s.groups;
  const int64_t reach = (s.kernel_height - 1) * s.dilation_height * strides.row +
                        (s.kernel_width - 1) * s.dilation_width * strides.pixel + channels;
  if (reach > INT32_MAX - 4) {
    usable_ = false;
    return;
  }
  std::vector<TileRun> runs;
  runs.reserve(s.kernel_height * s.kernel_width);
  for (int64_t i = 0; i < s.kernel_height; i++)
    for (int64_t j = 0; j < s.kernel_width; j++) {
      const auto offset = static_cast<int32_t>(i * s.dilation_height * strides.row +
                                               j * s.dilation_width * strides.pixel);
      const auto length = static_cast<int32_t>(channels);
      if (!runs.empty() && runs.back().offset + runs.back().length == offset)
        runs.back().length += length;
      else
        runs.push_back({offset, length});
    }
  order_quads(s, bytes, runs);
  cut(runs, bytes, most_quads);
}

// Taps follow each other row by row, in each tap the channels.
void Windows::order_quads(const Conv2dShape& s, bool bytes, const std::vector<TileRun>& runs) {
  const int64_t channels = s.channels / s.groups, taps = s.kernel_height * s.kernel_width;
  if (channels % 4 == 0) {  // then the packed columns are (channel / 4, tap, channel % 4)
    quads_ = channels / 4 * taps;
    places_.resize(quads_);
    int32_t* place = places_.data();
    for (int64_t t = 0; t < taps; t++)
      for (int64_t c = 0; c < channels / 4; c++) *place++ = static_cast<int32_t>(c * taps + t);
    return;
  }
  columns_.reserve(round_up(channels * taps, 4) + (bytes ? 4 * runs.size() : 0));
  size_t run = 0;
  int64_t in_run = 0;
  for (int64_t t = 0; t < taps; t++) {
    for (int64_t c = 0; c < channels; c++)
      columns_.push_back(static_cast<int32_t>(s.shared_tables ? (c / 4 * taps + t) * 4 + c % 4
                                                              : c * taps + t));
    in_run += channels;
    if (in_run == runs[run].length) {
      run++;
      in_run = 0;
      while (bytes && columns_.size() % 4) columns_.push_back(-1);
    }
  }
  while (columns_.size() % 4) columns_.push_back(-1);
  quads_ = static_cast<int64_t>(columns_.size()) / 4;
}

void Windows::cut(const std::vector<TileRun>& runs, bool bytes, int64_t most_quads) {
  const int64_t parts = divide_up(quads_, most_quads);
  chunks_.reserve(parts);
  runs_.reserve(runs.size() + parts);
  size_t run = 0;
  int32_t done = 0;  // elements of it
  for (int64_t part = 0; part < parts; part++) {
    const int64_t first = quads_ * part / parts, quads = quads_ * (part + 1) / parts - first;
    WindowChunk chunk{first, quads, static_cast<int64_t>(runs_.size()), 0};
    for (int64_t left = 4 * quads; left > 0 && run < runs.size();) {
      int32_t length = runs[run].length - done;
      if (bytes) length = static_cast<int32_t>(round_up(length, 4));
      const auto taken = static_cast<int32_t>(std::min<int64_t>(length, left));
      runs_.push_back({runs[run].offset + done, taken});
      left -= taken;
      done += taken;
      if (taken == length) {
        run++;
        done = 0;
      }
    }
    chunk.runs = static_cast<int64_t>(runs_.size()) - chunk.first_run;
    chunks_.push_back(chunk);
  }
}

}  // namespace ttq
