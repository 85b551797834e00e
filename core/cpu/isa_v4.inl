// What vector.inl wants of AVX-512. Included inside a namespace and a target pragma (see
// kernels_v4.cpp).

constexpr int vector_bytes = 64;

// Masked with all lanes, since GCC 12 warns of what the plain forms leave undefined.
inline __m512 square_root(__m512 x) {
  return _mm512_maskz_sqrt_ps(0xffff, x);
}
inline __m512d square_root(__m512d x) {
  return _mm512_maskz_sqrt_pd(0xff, x);
}
// Zeros above each 16-bit word.
inline auto widened(std::uint16_t __attribute__((vector_size(32))) words) {
  const __m512i wide = _mm512_maskz_cvtepu16_epi32(0xffff, (__m256i)words);
  return (std::uint32_t __attribute__((vector_size(64))))wide;
}
// Of the lower halves of 64-bit lanes.
template <class Words>
Words wide_product(Words a, Words b) {
  return (Words)_mm512_maskz_mul_epu32(0xff, (__m512i)a, (__m512i)b);
}
