#include "parallel.h"

#include <atomic>
#include <cstdlib>
#include <new>

#ifdef _OPENMP
#include <omp.h>
#else
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
// Workers that sleep between calls. A call takes the pool whole; a second one at the same time,
// from another thread, runs on its own thread alone.
class Pool {
 public:
  ~Pool() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  void run(Work& work, int threads) {
    std::unique_lock<std::mutex> owner(owner_, std::try_to_lock);
    if (!owner) return work.run();
    {
      std::lock_guard<std::mutex> lock(mutex_);
      while (static_cast<int>(workers_.size()) < threads - 1) {
        const int index = static_cast<int>(workers_.size());
        workers_.emplace_back([this, index] { serve(index); });
      }
      work_ = &work;
      wanted_ = threads - 1;
      busy_ = threads - 1;
      round_++;
    }
    wake_.notify_all();
    work.run();
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return busy_ == 0; });
  }

 private:
  void serve(int index) {
    uint64_t seen = 0;
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return stop_ || (round_ != seen && index < wanted_); });
      if (stop_) return;
      seen = round_;
      Work* work = work_;
      lock.unlock();
      work->run();
      lock.lock();
      if (--busy_ == 0) done_.notify_one();
    }
  }

  std::mutex owner_, mutex_;
  std::condition_variable wake_, done_;
  std::vector<std::thread> workers_;
  Work* work_ = nullptr;
  int wanted_ = 0, busy_ = 0;
  uint64_t round_ = 0;
  bool stop_ = false;
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
