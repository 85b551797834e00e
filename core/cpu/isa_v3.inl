// What vector.inl wants of AVX2 with FMA. Included inside a namespace and a target pragma (see
// kernels_v4.cpp).

constexpr int vector_bytes = 32;

inline __m256 square_root(__m256 x) {
  return _mm256_sqrt_ps(x);
}
inline __m256d square_root(__m256d x) {
  return _mm256_sqrt_pd(x);
}
// Zeros above each 16-bit word.
inline auto widened(std::uint16_t __attribute__((vector_size(16))) words) {
  return (std::uint32_t __attribute__((vector_size(32))))_mm256_cvtepu16_epi32((__m128i)words);
}
// Of the lower halves of 64-bit lanes.
template <class Words>
Words wide_product(Words a, Words b) {
  return (Words)_mm256_mul_epu32((__m256i)a, (__m256i)b);
}
