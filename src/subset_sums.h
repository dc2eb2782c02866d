// Sums of the subsets of four activations. Included by isa_*.cpp inside its own namespace.

template <class T>
static inline void subset_sums(const T* x, T* table) {
  for (int e = 0; e < kTableEntries; e++) {
    const T low = static_cast<T>((e & 1 ? x[0] : T(0)) + (e & 2 ? x[1] : T(0)));
    const T high = static_cast<T>((e & 4 ? x[2] : T(0)) + (e & 8 ? x[3] : T(0)));
    table[e] = static_cast<T>(low + high);
  }
}
