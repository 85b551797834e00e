// What vector.inl wants of SSE2. Included inside a namespace and a target pragma (see
// kernels_v4.cpp).

constexpr int vector_bytes = 16;

inline __m128 square_root(__m128 x) {
  return _mm_sqrt_ps(x);
}
inline __m128d square_root(__m128d x) {
  return _mm_sqrt_pd(x);
}
// Zeros above each 16-bit word.
inline auto widened(std::uint16_t __attribute__((vector_size(8))) words) {
  return __builtin_convertvector(words, std::uint32_t __attribute__((vector_size(16))));
}
// Of the lower halves of 64-bit lanes.
template <class Words>
Words wide_product(Words a, Words b) {
  return (Words)_mm_mul_epu32((__m128i)a, (__m128i)b);
}
