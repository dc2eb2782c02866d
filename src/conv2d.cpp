// Convolution without im2col. The padded input of a channel lies as one line of pixels, rows one
// after the other; a tap then is a constant distance along the line, and 32 consecutive outputs
// read 32 consecutive pixels for each tap. With a stride the line holds one plane for each phase of
// the stride. Outputs that fall into the padding between rows are computed and dropped.
#include <algorithm>
#include <cstring>
#include <vector>

#include "lanes.h"
#include "operators.h"
#include "parallel.h"

namespace ttq {
namespace {

constexpr int64_t kTaskRows = 256;
// Tasks that each thread should find, so that an uneven split costs little.
constexpr int64_t kTasksPerThread = 6;
constexpr int64_t kLeastTaskRows = 16;

int64_t divide_up(int64_t value, int64_t by) { return (value + by - 1) / by; }

// The padded planes of one channel, one for each phase of the stride that a tap uses.
class Planes {
 public:
  explicit Planes(const Conv2dShape& s) : s_(s) {
    height_ = divide_up(s.height + 2 * s.padding_height, s.stride_height);
    width_ = divide_up(s.width + 2 * s.padding_width, s.stride_width);
    std::vector<int64_t> plane_of(s.stride_height * s.stride_width, -1);
    for (int64_t i = 0; i < s.kernel_height; i++) {
      for (int64_t j = 0; j < s.kernel_width; j++) {
        const int64_t y = i * s.dilation_height, x = j * s.dilation_width;
        const int64_t phase = y % s.stride_height * s.stride_width + x % s.stride_width;
        if (plane_of[phase] < 0) {
          plane_of[phase] = static_cast<int64_t>(phases_.size());
          phases_.push_back(phase);
        }
        taps_.push_back(plane_of[phase] * height_ * width_ + y / s.stride_height * width_ +
                        x / s.stride_width);
      }
    }
  }

  int64_t channel_size() const {
    return static_cast<int64_t>(phases_.size()) * height_ * width_;
  }
  int64_t width() const { return width_; }
  const std::vector<int64_t>& taps() const { return taps_; }

  // One channel's planes from its pixels, through `convert(row of pixels, count, out)`.
  template <class T, class Convert>
  void fill(const float* channel, T* planes, const Convert& convert) const {
    for (size_t p = 0; p < phases_.size(); p++)
      for (int64_t row = 0; row < height_; row++)
        fill_row(channel, phases_[p] / s_.stride_width, phases_[p] % s_.stride_width, row,
                 planes + (static_cast<int64_t>(p) * height_ + row) * width_, convert);
  }

 private:
  template <class T, class Convert>
  void fill_row(const float* channel, int64_t phase_y, int64_t phase_x, int64_t row, T* out,
                const Convert& convert) const {
    const int64_t y = row * s_.stride_height + phase_y - s_.padding_height;
    if (y < 0 || y >= s_.height) {
      std::fill_n(out, width_, T{0});
      return;
    }
    // Plane column c holds the input's column c * stride + phase - padding.
    const int64_t shift = s_.padding_width - phase_x;
    const int64_t begin = std::clamp<int64_t>(divide_up(std::max<int64_t>(shift, 0), s_.stride_width), 0, width_);
    const int64_t end =
        std::clamp<int64_t>(divide_up(std::max<int64_t>(s_.width + shift, 0), s_.stride_width), begin, width_);
    std::fill_n(out, begin, T{0});
    std::fill(out + end, out + width_, T{0});
    if (begin == end) return;
    const int64_t first = begin * s_.stride_width - shift;
    const float* pixels = channel + y * s_.row_stride + first * s_.column_stride;
    convert(pixels, s_.stride_width * s_.column_stride, end - begin, out + begin);
  }

  const Conv2dShape& s_;
  int64_t height_, width_;
  std::vector<int64_t> phases_;
  std::vector<int64_t> taps_;
};

struct CopyRow {
  void operator()(const float* pixels, int64_t step, int64_t count, float* out) const {
    if (step == 1) {
      std::memcpy(out, pixels, static_cast<size_t>(count) * sizeof(float));
      return;
    }
    for (int64_t i = 0; i < count; i++) out[i] = pixels[i * step];
  }
};

struct QuantizeRow {
  const Kernels& kernels;
  float multiplier;

  void operator()(const float* pixels, int64_t step, int64_t count, int16_t* out) const {
    constexpr int64_t kChunk = 128;
    float chunk[kChunk];
    for (int64_t i = 0; i < count; i += kChunk) {
      const int64_t now = std::min(kChunk, count - i);
      const float* row = pixels + i * step;
      if (step != 1) {
        CopyRow{}(row, step, now, chunk);
        row = chunk;
      }
      kernels.quantize(row, now, multiplier, out + i);
    }
  }
};

// max |x| over an image of any strides.
float image_largest(const Kernels& kernels, const Conv2dShape& s, const float* image) {
  const int64_t pixels = s.height * s.width;
  const bool nchw = s.column_stride == 1 && s.row_stride == s.width && s.channel_stride == pixels;
  const bool nhwc = s.channel_stride == 1 && s.column_stride == s.channels &&
                    s.row_stride == s.width * s.channels;
  if (nchw || nhwc) return kernels.largest(image, s.channels * pixels);
  float most = 0;
  std::vector<float> row(static_cast<size_t>(s.width));
  for (int64_t c = 0; c < s.channels; c++) {
    for (int64_t y = 0; y < s.height; y++) {
      CopyRow{}(image + c * s.channel_stride + y * s.row_stride, s.column_stride, s.width,
                row.data());
      const float here = kernels.largest(row.data(), s.width);
      if (!(here <= most)) most = here;  // also takes a NaN,
      if (most != most) return most;     // which then stays
    }
  }
  return most;
}

class Conv2d {
 public:
  Conv2d(const Kernels& kernels, const Weights& w, const Conv2dShape& s, const float* x,
         const float* residual, float* y)
      : kernels_(kernels),
        w_(w),
        s_(s),
        x_(x),
        residual_(residual),
        y_(y),
        planes_(s),
        group_channels_(s.channels / s.groups),
        group_rows_(s.out_channels / s.groups),
        outputs_((s.out_height - 1) * planes_.width() + s.out_width),
        blocks_(divide_up(outputs_, kLanes)),
        full_(plan(std::min<int64_t>(kLanes, outputs_))),
        last_(plan(outputs_ - (blocks_ - 1) * kLanes)) {
    set_offsets();
  }

  bool run(int threads) {
    const int64_t at_once = std::clamp<int64_t>(threads, 1, s_.images);
    // Windows of the last block reach past the last pixel.
    const int64_t slack = full_.stride + 64;
    image_size_ = s_.channels * planes_.channel_size() + slack;
    const int64_t bytes = image_size_ * (w_.quantized ? sizeof(int16_t) : sizeof(float));
    char* source = static_cast<char*>(scratch(Scratch::kSource, at_once * bytes));
    std::vector<RowScale> scales(at_once);
    for (int64_t first = 0; first < s_.images; first += at_once) {
      const int64_t images = std::min(at_once, s_.images - first);
      std::vector<float> most(images);
      parallel_for(images, threads, [&](int64_t i) {
        most[i] = image_largest(kernels_, s_, x_ + (first + i) * s_.image_stride);
      });
      for (int64_t i = 0; i < images; i++) {
        if (!w_.quantized && !(most[i] <= kLargestActivation)) return false;
        scales[i] = row_scale(most[i]);
      }
      parallel_for(images * s_.channels, threads, [&](int64_t task) {
        const int64_t i = task / s_.channels;
        fill(first + i, task % s_.channels, scales[i].multiplier, source + i * bytes);
      });
      const int64_t parts = row_parts(images, threads);
      parallel_for(images * blocks_ * s_.groups * parts, threads, [&](int64_t task) {
        const int64_t part = task % parts;
        const int64_t group = task / parts % s_.groups;
        const int64_t block = task / parts / s_.groups % blocks_;
        const int64_t i = task / parts / s_.groups / blocks_;
        outputs(first + i, block, group * group_rows_ + group_rows_ * part / parts,
                group * group_rows_ + group_rows_ * (part + 1) / parts, source + i * bytes, group,
                scales[i].scale);
      });
    }
    return true;
  }

 private:
  LanePlan plan(int64_t lanes) const {
    const int64_t element = w_.quantized ? sizeof(int16_t) : sizeof(float);
    const std::vector<int64_t> single{0};
    return LanePlan(s_.shared_tables ? planes_.taps() : single, lanes,
                    kernels_.vector_bytes / element);
  }

  // Where each code's source begins in an image's planes, for one group of channels.
  void set_offsets() {
    const int64_t size = planes_.channel_size();
    if (s_.shared_tables) {
      offsets_.assign(divide_up(group_channels_, 4) * 4, -1);
      for (int64_t c = 0; c < group_channels_; c++) offsets_[c] = c * size;
      return;
    }
    for (int64_t c = 0; c < group_channels_; c++)
      for (int64_t tap : planes_.taps()) offsets_.push_back(c * size + tap);
    while (offsets_.size() % 4) offsets_.push_back(-1);
  }

  int64_t row_parts(int64_t images, int threads) const {
    const int64_t least = divide_up(group_rows_, kTaskRows);
    if (threads <= 1) return least;
    const int64_t tasks = images * blocks_ * s_.groups;
    const int64_t wanted = divide_up(kTasksPerThread * threads, tasks);
    return std::max(least, std::min(wanted, divide_up(group_rows_, kLeastTaskRows)));
  }

  void fill(int64_t image, int64_t channel, float multiplier, void* source) const {
    const float* pixels = x_ + image * s_.image_stride + channel * s_.channel_stride;
    const int64_t place = channel * planes_.channel_size();
    const bool last = channel + 1 == s_.channels;
    const int64_t end = place + planes_.channel_size();
    if (w_.quantized) {
      int16_t* planes = static_cast<int16_t*>(source);
      if (multiplier != 0)
        planes_.fill(pixels, planes + place, QuantizeRow{kernels_, multiplier});
      else
        std::fill(planes + place, planes + end, int16_t{0});
      if (last) std::fill(planes + end, planes + image_size_, int16_t{0});
    } else {
      float* planes = static_cast<float*>(source);
      planes_.fill(pixels, planes + place, CopyRow{});
      if (last) std::fill(planes + end, planes + image_size_, 0.0f);
    }
  }

  void outputs(int64_t image, int64_t block, int64_t row_begin, int64_t row_end,
               const char* source, int64_t group, float scale) const {
    const int64_t first = block * kLanes;
    const int64_t element = w_.quantized ? sizeof(int16_t) : sizeof(float);
    const LaneJob job{&kernels_, &w_, block + 1 == blocks_ ? &last_ : &full_,
                      source + (group * group_channels_ * planes_.channel_size() + first) * element,
                      offsets_.data()};
    const char* sums = static_cast<const char*>(lane_sums(job, row_begin, row_end));
    constexpr int64_t kRowBytes = 2 * kLanes * 4;
    Line lines[kLanes];
    const int count = lines_of(first, std::min<int64_t>(kLanes, outputs_ - first), lines);
    float residual[kLanes] = {}, values[kLanes];
    for (int64_t row = row_begin; row < row_end; row++) {
      const int64_t plane = (image * s_.out_channels + row) * s_.out_height * s_.out_width;
      if (residual_)
        for (int i = 0; i < count; i++)
          std::memcpy(residual + lines[i].lane, residual_ + plane + lines[i].place,
                      lines[i].count * sizeof(float));
      finish_row(job, sums + (row - row_begin) * kRowBytes, row,
                 {0, 0, scale, w_.bias ? w_.bias[row] : 0.0f, residual_ ? residual : nullptr,
                  w_.relu},
                 values);
      for (int i = 0; i < count; i++)
        std::memcpy(y_ + plane + lines[i].place, values + lines[i].lane,
                    lines[i].count * sizeof(float));
    }
  }

  // Consecutive lanes that are outputs of one image row; lanes between rows belong to none.
  struct Line {
    int64_t lane, place, count;
  };

  int lines_of(int64_t first, int64_t lanes, Line* lines) const {
    int found = 0;
    for (int64_t lane = 0; lane < lanes;) {
      const int64_t row = (first + lane) / planes_.width();
      const int64_t column = (first + lane) % planes_.width();
      const int64_t rest = std::min(planes_.width() - column, lanes - lane);
      const int64_t count = std::min(rest, s_.out_width - column);
      if (count > 0) lines[found++] = {lane, row * s_.out_width + column, count};
      lane += rest;
    }
    return found;
  }

  const Kernels& kernels_;
  const Weights& w_;
  const Conv2dShape& s_;
  const float* x_;
  const float* residual_;
  float* y_;
  Planes planes_;
  int64_t group_channels_, group_rows_, outputs_, blocks_;
  LanePlan full_, last_;
  std::vector<int64_t> offsets_;
  int64_t image_size_ = 0;
};

}  // namespace

bool conv2d(const Kernels& kernels, const Weights& weights, const Conv2dShape& shape,
            const float* x, const float* residual, float* y, int threads) {
  return Conv2d(kernels, weights, shape, x, residual, y).run(threads);
}

}  // namespace ttq
