// Element types.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace pf {

enum class DType : std::uint8_t { f64, f32, bf16, i64, i32, u8 };

constexpr std::size_t size_of(DType type) {
  constexpr std::size_t sizes[] = {8, 4, 2, 8, 4, 1};
  return sizes[std::size_t(type)];
}

constexpr const char* name(DType type) {
  constexpr const char* names[] = {"f64", "f32", "bf16", "i64", "i32", "u8"};
  return names[std::size_t(type)];
}

constexpr bool is_floating(DType type) {
  return type <= DType::bf16;
}

// What sums, statistics, gradients and master weights of tensors of `type` are kept in.
constexpr DType accumulation(DType type) {
  return type == DType::f64 ? DType::f64 : DType::f32;
}

// The upper half of an f32, rounded to nearest even. Not a number stays not a number.
struct Bf16 {
  std::uint16_t bits = 0;

  Bf16() = default;
  explicit Bf16(float value) {
    const auto word = std::bit_cast<std::uint32_t>(value);
    const bool is_nan = (word & 0x7fffffff) > 0x7f800000;
    bits = is_nan ? std::uint16_t(word >> 16 | 0x40)
                  : std::uint16_t((word + 0x7fff + (word >> 16 & 1)) >> 16);
  }
  explicit operator float() const { return std::bit_cast<float>(std::uint32_t{bits} << 16); }
  explicit operator double() const { return float(*this); }
};

template <class T>
constexpr DType dtype_of();
template <>
constexpr DType dtype_of<double>() {
  return DType::f64;
}
template <>
constexpr DType dtype_of<float>() {
  return DType::f32;
}
template <>
constexpr DType dtype_of<Bf16>() {
  return DType::bf16;
}
template <>
constexpr DType dtype_of<std::int64_t>() {
  return DType::i64;
}
template <>
constexpr DType dtype_of<std::int32_t>() {
  return DType::i32;
}
template <>
constexpr DType dtype_of<std::uint8_t>() {
  return DType::u8;
}

}  // namespace pf
