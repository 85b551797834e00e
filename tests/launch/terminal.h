// A terminal to print to, and what it shows.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "launch/text.h"

namespace pf {

// The other end is a pseudo-terminal of some columns. It understands \r, \n, CSI K and CSI m, and
// sets TERM and NO_COLOR as on a terminal with colours.
class Terminal {
 public:
  explicit Terminal(int columns) : columns_(columns) {
    setenv("TERM", "xterm", 1);
    unsetenv("NO_COLOR");
    main_ = posix_openpt(O_RDWR | O_NOCTTY);
    if (grantpt(main_) != 0 || unlockpt(main_) != 0) throw std::runtime_error("no terminal");
    winsize size{};
    size.ws_col = static_cast<unsigned short>(columns);
    ioctl(main_, TIOCSWINSZ, &size);
    out_ = std::fopen(ptsname(main_), "w");
  }
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;
  ~Terminal() {
    std::fclose(out_);
    close(main_);
  }

  std::FILE* out() const { return out_; }

  const std::string& bytes() {
    std::array<char, 4096> some{};
    pollfd ready{main_, POLLIN, 0};
    while (poll(&ready, 1, 20) > 0) {
      const ssize_t size = read(main_, some.data(), some.size());
      if (size <= 0) break;
      bytes_.append(some.data(), static_cast<std::size_t>(size));
    }
    return bytes_;
  }

  // Lines without the spaces at their ends; the last is that of the cursor.
  std::vector<std::string> screen() {
    std::vector<std::vector<std::string>> lines(1);
    std::size_t column = 0;
    const std::string& all = bytes();
    for (std::size_t at = 0; at < all.size();) {
      const Character character = first_character(std::string_view(all).substr(at));
      const std::string text = all.substr(at, character.bytes);
      at += character.bytes;
      if (text == "\r") {
        column = 0;
      } else if (text == "\n") {
        lines.emplace_back();
      } else if (text == "\033") {
        const std::size_t end = all.find_first_of("Km", at);
        if (all[end] == 'K') lines.back().resize(std::min(lines.back().size(), column));
        at = end + 1;
      } else {
        if (column == static_cast<std::size_t>(columns_)) {
          lines.emplace_back();
          column = 0;
        }
        lines.back().resize(std::max(lines.back().size(), column + 1), " ");
        lines.back()[column++] = text;
      }
    }
    std::vector<std::string> texts;
    for (const auto& line : lines) {
      std::string text;
      for (const std::string& cell : line) text += cell;
      texts.push_back(text.substr(0, text.find_last_not_of(' ') + 1));
    }
    return texts;
  }

 private:
  int columns_, main_;
  std::FILE* out_;
  std::string bytes_;
};

}  // namespace pf
