// How rules of a configuration say what is wrong, and what would be right.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "launch/config_fill.h"

namespace pf {

std::string text_of(std::int64_t value);

// "8 or 16": the legal values on both sides of one that is not; one below 1 is none.
std::string either(std::int64_t below, std::int64_t above);
std::string nearest_multiples(std::int64_t of, std::int64_t value);
std::string nearest_divisors(std::int64_t of, std::int64_t value);
// From 1 to `most`, times `unit`; "" if there are none.
std::string nearest_legal(std::int64_t value, std::int64_t most,
                          const std::function<bool(std::int64_t)>& is_legal, std::int64_t unit = 1);

// Throw Error unless `value` is a multiple, or a divisor, of `of`, which `rule` puts in words.
void check_multiple(const Places& places, const std::string& key, std::int64_t value,
                    std::int64_t of, const std::string& rule);
void check_divisor(const Places& places, const std::string& key, std::int64_t value,
                   std::int64_t of, const std::string& rule);

}  // namespace pf
