#include "parallel.h"

#include <atomic>
#include <cstdlib>
#include <new>

#ifdef _OPENMP
#include <omp.h>
#else
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>
#endif

namespace ttq {
namespace {

struct Work {
  void (*body)(const void*, int64_t);
  const void* context;
  int64_t tasks;
  std::atomic<int64_t> next{0};

  void run() {
    for (int64_t task = next++; task < tasks; task = next++) body(context, task);
  }
};

#ifndef _OPENMP
inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ __volatile__("yield");
#endif
}

// Workers that spin for a moment after their work, since calls follow each other closely, and then
// sleep. A call takes the pool whole; a second one at the same time, from another thread, runs on
// its own thread alone. A call waits for the workers that have begun, not for those that a busy
// machine has not let run yet: the caller does their tasks.
class Pool {
 public:
  ~Pool() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
      round_++;
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  void run(Work& work, int threads) {
    std::unique_lock<std::mutex> owner(owner_, std::try_to_lock);
    if (!owner) return work.run();
    work_ = &work;
    wanted_ = threads - 1;
    entry_ -= kClosed;
    while (static_cast<int>(workers_.size()) < threads - 1) {
      const int index = static_cast<int>(workers_.size());
      workers_.emplace_back([this, index, seen = round_.load()] { serve(index, seen); });
    }
    round_++;
    if (sleepers_ > 0) {
      { std::lock_guard<std::mutex> lock(mutex_); }
      wake_.notify_all();
    }
    work.run();
    entry_ += kClosed;
    while (entry_ != kClosed) pause();
  }

 private:
  static constexpr int kClosed = 1 << 16;
  static constexpr int kPausesBetweenLooks = 64;
  static constexpr auto kSpin = std::chrono::microseconds(50);

  void serve(int index, uint64_t seen) {
    while (!stop_) {
      if (round_ == seen) wait(seen);
      seen = round_;
      if (entry_++ < kClosed && index < wanted_) work_.load()->run();
      entry_--;
    }
  }

  // Until another round begins, or the pool ends.
  void wait(uint64_t seen) {
    const auto end = std::chrono::steady_clock::now() + kSpin;
    while (std::chrono::steady_clock::now() < end)
      for (int i = 0; i < kPausesBetweenLooks; i++) {
        if (round_ != seen) return;
        pause();
      }
    std::unique_lock<std::mutex> lock(mutex_);
    sleepers_++;
    wake_.wait(lock, [&] { return round_ != seen; });
    sleepers_--;
  }

  std::mutex owner_, mutex_;
  std::condition_variable wake_;
  std::vector<std::thread> workers_;
  std::atomic<Work*> work_{nullptr};
  // Workers inside the call's work, plus kClosed while there is none to enter.
  std::atomic<int> entry_{kClosed};
  std::atomic<int> wanted_{0}, sleepers_{0};
  std::atomic<uint64_t> round_{0};
  std::atomic<bool> stop_{false};
};

thread_local bool inside = false;
#endif

struct Buffers {
  void* memory[static_cast<int>(Scratch::kCount)] = {};
  size_t bytes[static_cast<int>(Scratch::kCount)] = {};

  ~Buffers() {
    for (void* buffer : memory) std::free(buffer);
  }
};

}  // namespace

void parallel_for(int64_t tasks, int threads, void (*body)(const void*, int64_t),
                  const void* context) {
  Work work{body, context, tasks, {}};
  if (threads > tasks) threads = static_cast<int>(tasks);
#ifdef _OPENMP
  if (threads <= 1 || omp_in_parallel()) return work.run();
#pragma omp parallel num_threads(threads)
  work.run();
#else
  if (threads <= 1 || inside) return work.run();
  static Pool pool;
  inside = true;
  pool.run(work, threads);
  inside = false;
#endif
}

void* scratch(Scratch use, size_t bytes) {
  static thread_local Buffers buffers;
  const int i = static_cast<int>(use);
  if (buffers.bytes[i] < bytes) {
    const size_t size = (bytes + bytes / 4 + 4095) / 4096 * 4096;
    std::free(buffers.memory[i]);
    buffers.bytes[i] = 0;
    buffers.memory[i] = std::aligned_alloc(4096, size);
    if (!buffers.memory[i]) throw std::bad_alloc();
    buffers.bytes[i] = size;
  }
  return buffers.memory[i];
}

}  // namespace ttq
