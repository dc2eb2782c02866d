// Convolution without im2col. The padded images of a channel lie as one line of pixels, row after
// row and image after image; a tap then is a constant distance along the line, and consecutive
// outputs read consecutive pixels for each tap, across the borders of rows and of images. The zeros
// left of a row also end the row before it, and those above an image end the image before it.
// With a stride the line holds one plane for each phase of the stride. Outputs that fall into the
// padding are computed and dropped.
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
// Padded activations of the images that one line holds, for each thread: half a second-level cache.
constexpr int64_t kLineBytes = 256 << 10;
constexpr int64_t kMostImages = 256;

int64_t divide_up(int64_t value, int64_t by) { return (value + by - 1) / by; }

// Where the pixels of one direction lie in a line: the zeros before them and the distance from one
// row (or image) to the next, which is the smallest at which no output reads past those zeros.
struct Spacing {
  int64_t size, padding, stride, distance = 0;

  int64_t begin(int64_t phase) const {
    return divide_up(std::max<int64_t>(padding - phase, 0), stride);
  }
  int64_t end(int64_t phase) const {
    return divide_up(std::max<int64_t>(size + padding - phase, 0), stride);
  }
  void make_room(int64_t tap, int64_t outputs) {
    const int64_t phase = tap % stride, reach = tap / stride + outputs;
    distance = std::max({distance, outputs, end(phase), reach - begin(phase)});
  }
};

// The padded planes of one channel of several images, one for each phase of the stride that a tap
// uses.
class Planes {
 public:
  Planes(const Conv2dShape& s, int64_t images)
      : s_(s),
        rows_{s.height, s.padding_height, s.stride_height},
        columns_{s.width, s.padding_width, s.stride_width} {
    for (int64_t i = 0; i < s.kernel_height; i++)
      rows_.make_room(i * s.dilation_height, s.out_height);
    for (int64_t j = 0; j < s.kernel_width; j++)
      columns_.make_room(j * s.dilation_width, s.out_width);
    // The zeros after the last image: as many as an image can have above it.
    tail_ = (rows_.begin(0) + 1) * columns_.distance;
    plane_size_ = images * image_size() + tail_;
    std::vector<int64_t> plane_of(s.stride_height * s.stride_width, -1);
    for (int64_t i = 0; i < s.kernel_height; i++) {
      for (int64_t j = 0; j < s.kernel_width; j++) {
        const int64_t y = i * s.dilation_height, x = j * s.dilation_width;
        const int64_t phase = y % s.stride_height * s.stride_width + x % s.stride_width;
        if (plane_of[phase] < 0) {
          plane_of[phase] = static_cast<int64_t>(phases_.size());
          phases_.push_back(phase);
        }
        taps_.push_back(plane_of[phase] * plane_size_ + y / s.stride_height * columns_.distance +
                        x / s.stride_width);
      }
    }
  }

  int64_t channel_size() const { return static_cast<int64_t>(phases_.size()) * plane_size_; }
  int64_t width() const { return columns_.distance; }
  int64_t image_size() const { return rows_.distance * columns_.distance; }
  const std::vector<int64_t>& taps() const { return taps_; }

  // The pixels of image number `image` of a channel, through `convert(pixels, step, count, out)`.
  template <class T, class Convert>
  void fill(const float* channel, int64_t image, T* planes, const Convert& convert) const {
    for (size_t p = 0; p < phases_.size(); p++) {
      T* plane = planes + static_cast<int64_t>(p) * plane_size_;
      if (image == 0) std::fill_n(plane + plane_size_ - tail_, tail_, T{0});
      for (int64_t row = 0; row < rows_.distance; row++)
        fill_row(channel, phases_[p] / s_.stride_width, phases_[p] % s_.stride_width, row,
                 plane + image * image_size() + row * width(), convert);
    }
  }

 private:
  template <class T, class Convert>
  void fill_row(const float* channel, int64_t phase_y, int64_t phase_x, int64_t row, T* out,
                const Convert& convert) const {
    const int64_t y = row * s_.stride_height + phase_y - s_.padding_height;
    const int64_t begin = columns_.begin(phase_x), end = columns_.end(phase_x);
    if (y < 0 || y >= s_.height || begin >= end) {
      std::fill_n(out, width(), T{0});
      return;
    }
    std::fill_n(out, begin, T{0});
    std::fill(out + end, out + width(), T{0});
    const int64_t first = begin * s_.stride_width + phase_x - s_.padding_width;
    const float* pixels = channel + y * s_.row_stride + first * s_.column_stride;
    convert(pixels, s_.stride_width * s_.column_stride, end - begin, out + begin);
  }

  const Conv2dShape& s_;
  Spacing rows_, columns_;
  int64_t tail_, plane_size_;
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

struct ZeroRow {
  void operator()(const float*, int64_t, int64_t count, int16_t* out) const {
    std::fill_n(out, count, int16_t{0});
  }
};

// A few floats, without memcpy's call.
inline void copy_floats(const float* from, int64_t count, float* to) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) std::memcpy(to + i, from + i, 8 * sizeof(float));
  for (; i < count; i++) to[i] = from[i];
}

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
         const float* residual, float* y, int threads)
      : kernels_(kernels),
        w_(w),
        s_(s),
        x_(x),
        residual_(residual),
        y_(y),
        images_(images_at_once(s, w, threads)),
        threads_(threads),
        planes_(s, images_),
        group_channels_(s.channels / s.groups),
        group_rows_(s.out_channels / s.groups) {
    set_offsets();
  }

  bool run() {
    // Windows of the last block reach past the last pixel.
    source_size_ = s_.channels * planes_.channel_size() + 4 * kLanes;
    source_ = scratch(Scratch::kSource, source_size_ * element_bytes());
    std::vector<float> most(images_);
    scales_.resize(images_);
    for (int64_t first = 0; first < s_.images; first += images_) {
      const int64_t images = std::min(images_, s_.images - first);
      parallel_for(images, threads_, [&](int64_t i) {
        most[i] = image_largest(kernels_, s_, x_ + (first + i) * s_.image_stride);
      });
      for (int64_t i = 0; i < images; i++) {
        if (!w_.quantized && !(most[i] <= kLargestActivation)) return false;
        scales_[i] = row_scale(most[i]);
      }
      parallel_for(images * s_.channels, threads_, [&](int64_t task) {
        fill(first, task / s_.channels, task % s_.channels);
      });
      line(first, images);
    }
    return true;
  }

 private:
  // As many images as kLineBytes hold for each thread, in parts of about equal size.
  static int64_t images_at_once(const Conv2dShape& s, const Weights& w, int threads) {
    const int64_t element = w.quantized ? sizeof(int16_t) : sizeof(float);
    const int64_t image = s.channels * (s.height + s.padding_height) *
                          (s.width + s.padding_width) * element;
    const int64_t most = std::max<int64_t>(threads, std::min(kLineBytes * threads / image, kMostImages));
    return divide_up(s.images, divide_up(s.images, most));
  }

  int64_t element_bytes() const { return w_.quantized ? sizeof(int16_t) : sizeof(float); }

  LanePlan plan(int64_t lanes) const {
    const std::vector<int64_t> single{0};
    return LanePlan(s_.shared_tables ? planes_.taps() : single, lanes,
                    kernels_.vector_bytes / element_bytes());
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

  int64_t row_parts(int64_t blocks) const {
    const int64_t least = divide_up(group_rows_, kTaskRows);
    if (threads_ <= 1) return least;
    const int64_t wanted = divide_up(kTasksPerThread * threads_, blocks * s_.groups);
    return std::max(least, std::min(wanted, divide_up(group_rows_, kLeastTaskRows)));
  }

  void fill(int64_t first, int64_t image, int64_t channel) const {
    const float* pixels = x_ + (first + image) * s_.image_stride + channel * s_.channel_stride;
    const int64_t place = channel * planes_.channel_size();
    const int64_t end = s_.channels * planes_.channel_size();
    const bool last = image == 0 && channel + 1 == s_.channels;
    if (w_.quantized) {
      int16_t* planes = static_cast<int16_t*>(source_);
      const float multiplier = scales_[image].multiplier;
      if (multiplier != 0)
        planes_.fill(pixels, image, planes + place, QuantizeRow{kernels_, multiplier});
      else
        planes_.fill(pixels, image, planes + place, ZeroRow{});
      if (last) std::fill(planes + end, planes + source_size_, int16_t{0});
    } else {
      float* planes = static_cast<float*>(source_);
      planes_.fill(pixels, image, planes + place, CopyRow{});
      if (last) std::fill(planes + end, planes + source_size_, 0.0f);
    }
  }

  // All outputs of `images` images, the first of which is number `first`.
  void line(int64_t first, int64_t images) const {
    const int64_t lanes = (images - 1) * planes_.image_size() +
                          (s_.out_height - 1) * planes_.width() + s_.out_width;
    const int64_t blocks = divide_up(lanes, kLanes);
    const LanePlan full = plan(std::min<int64_t>(kLanes, lanes));
    const LanePlan last = plan(lanes - (blocks - 1) * kLanes);
    const int64_t parts = row_parts(blocks);
    parallel_for(blocks * s_.groups * parts, threads_, [&](int64_t task) {
      const int64_t part = task % parts, group = task / parts % s_.groups;
      const int64_t block = task / parts / s_.groups;
      const int64_t begin = group * group_rows_;
      outputs(first, block * kLanes, block + 1 == blocks ? last : full, group,
              begin + group_rows_ * part / parts, begin + group_rows_ * (part + 1) / parts);
    });
  }

  void outputs(int64_t first_image, int64_t first_lane, const LanePlan& plan, int64_t group,
               int64_t row_begin, int64_t row_end) const {
    const LaneJob job{&kernels_, &w_, &plan,
                      static_cast<const char*>(source_) +
                          (group * group_channels_ * planes_.channel_size() + first_lane) *
                              element_bytes(),
                      offsets_.data()};
    Line lines[kLanes];
    float scales[kLanes] = {};
    const int count = lines_of(first_image, first_lane, plan.lanes, lines, scales);
    if (count == 0) return;
    const char* sums = static_cast<const char*>(lane_sums(job, row_begin, row_end));
    const int64_t row_bytes = 4 * lane_row_sums(w_);
    float residual[kLanes] = {}, values[kLanes];
    for (int64_t row = row_begin; row < row_end; row++) {
      const int64_t plane = row * s_.out_height * s_.out_width;
      if (residual_)
        for (int i = 0; i < count; i++)
          copy_floats(residual_ + plane + lines[i].place, lines[i].count, residual + lines[i].lane);
      finish_row(job, sums + (row - row_begin) * row_bytes, row,
                 {0, 0, 1, w_.bias ? w_.bias[row] : 0.0f, residual_ ? residual : nullptr, w_.relu,
                  scales},
                 values);
      for (int i = 0; i < count; i++)
        copy_floats(values + lines[i].lane, lines[i].count, y_ + plane + lines[i].place);
    }
  }

  // Consecutive lanes that are outputs of one image row, and where those of channel 0 go; lanes
  // between rows and between images belong to none.
  struct Line {
    int64_t lane, place, count;
  };

  // The lines of a block, and the quantization scale of each lane's image.
  int lines_of(int64_t first_image, int64_t first_lane, int64_t lanes, Line* lines,
               float* scales) const {
    int found = 0;
    for (int64_t lane = 0; lane < lanes;) {
      const int64_t image = (first_lane + lane) / planes_.image_size();
      const int64_t pixel = (first_lane + lane) % planes_.image_size();
      const int64_t row = pixel / planes_.width(), column = pixel % planes_.width();
      const int64_t rest = std::min(planes_.width() - column, lanes - lane);
      const int64_t count = std::min(rest, s_.out_width - column);
      if (count > 0 && row < s_.out_height) {
        const int64_t channels = (first_image + image) * s_.out_channels;
        lines[found++] = {
            lane, (channels * s_.out_height + row) * s_.out_width + column, count};
        std::fill_n(scales + lane, count, scales_[image].scale);
      }
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
  int64_t images_;  // that one line holds
  int threads_;
  Planes planes_;
  int64_t group_channels_, group_rows_;
  std::vector<int64_t> offsets_;
  int64_t source_size_ = 0;
  void* source_ = nullptr;
  std::vector<RowScale> scales_;  // of the images in the line
};

}  // namespace

bool conv2d(const Kernels& kernels, const Weights& weights, const Conv2dShape& shape,
            const float* x, const float* residual, float* y, int threads) {
  return Conv2d(kernels, weights, shape, x, residual, y, threads).run();
}

}  // namespace ttq
