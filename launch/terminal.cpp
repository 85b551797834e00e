#include "launch/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <system_error>

#include "core/error.h"

namespace pf {

bool understands_escapes(std::FILE* out) {
  const char* terminal = std::getenv("TERM");
  return isatty(fileno(out)) == 1 && terminal != nullptr && std::string_view(terminal) != "dumb";
}

int columns_of(std::FILE* out) {
  winsize size{};
  return ioctl(fileno(out), TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

void print(const std::string& text) {
  const bool is_written = std::fputs(text.c_str(), stdout) >= 0 && std::fflush(stdout) == 0;
  const int reason = errno;
  require(is_written || reason == EPIPE,
          "can't write to standard output: ", std::generic_category().message(reason));
}

}  // namespace pf
