// Threads and scratch memory.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ttq {

// Calls body(context, task) for every task in [0, tasks), on at most `threads` threads of the one
// pool: OpenMP's, which torch uses too where both found the same library, else our own. Runs on
// the calling thread alone inside another parallel region. Tasks go out in order, one at a time.
void parallel_for(int64_t tasks, int threads, void (*body)(const void* context, int64_t task),
                  const void* context);

template <class Body>
void parallel_for(int64_t tasks, int threads, const Body& body) {
  parallel_for(
      tasks, threads,
      [](const void* context, int64_t task) { (*static_cast<const Body*>(context))(task); },
      &body);
}

// What scratch memory of a thread is used for; each use has its own buffer.
enum class Scratch {
  kSource, kQuantized, kTables, kSums, kTotals, kPanel, kPlaces, kShared, kLocal,
  kFactors, kRing, kLine, kWindows, kValues,  // convolutions in wide layouts
  kCount
};

// At least `bytes` of this thread's memory, aligned to 64; valid until its next use.
void* scratch(Scratch use, size_t bytes);

template <class T>
T* scratch_array(Scratch use, int64_t count) {
  return static_cast<T*>(scratch(use, static_cast<size_t>(count) * sizeof(T)));
}

}  // namespace ttq
