// For tests: decodes and resizes on request, so that scripts/oracle/picture_differential.py can compare with PIL.
// One request a line on standard input:
//   decode PATH                  -> "ok HEIGHT WIDTH\n" and the RGB bytes
//   resize PATH HEIGHT WIDTH N   -> the same, PATH being decoded first, N PIL's number of the filter (2 or 3)
//   time PATH HEIGHT WIDTH N     -> "ok MILLISECONDS 0\n", processor time of the resize alone, the best of five
// or "error MESSAGE\n".
#include <algorithm>
#include <ctime>
#include <iostream>
#include <sstream>
#include <string>

#include "base/file.h"
#include "media/decode.h"
#include "media/resize.h"

namespace {

using namespace keye;

double processor_ms() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e3 + static_cast<double>(now.tv_nsec) * 1e-6;
}

Result<media::Image> answer(const std::string& verb, std::istringstream& words, double& best_ms) {
  std::string path;
  int height = 0;
  int width = 0;
  int filter = 3;
  words >> path >> height >> width >> filter;
  KEYE_TRY(const std::string bytes, read_file(path));
  KEYE_TRY(media::Image image, media::decode_image(std::as_bytes(std::span(bytes)), {}));
  if (verb == "decode") return image;
  if (verb != "resize" && verb != "time") return make_error(ErrorCode::invalid_argument, "", "no verb {}", verb);
  media::Image out;
  for (int run = 0; run < (verb == "time" ? 5 : 1); ++run) {
    const double begin = processor_ms();
    out = media::resize(image, height, width, static_cast<media::Resample>(filter));
    best_ms = std::min(best_ms, processor_ms() - begin);
  }
  return out;
}

}  // namespace

int main() {
  std::ios::sync_with_stdio(false);
  std::string line;
  while (std::getline(std::cin, line)) {
    std::istringstream words(line);
    std::string verb;
    words >> verb;
    double best_ms = 1e30;
    const Result<media::Image> image = answer(verb, words, best_ms);
    if (!image) {
      std::string message = image.error().to_string();
      std::replace(message.begin(), message.end(), '\n', ' ');
      std::cout << "error " << message << '\n';
    } else if (verb == "time") {
      std::cout << "ok " << best_ms << " 0\n";
    } else {
      std::cout << "ok " << image->height << ' ' << image->width << '\n';
      std::cout.write(reinterpret_cast<const char*>(image->rgb.data()),
                      static_cast<std::streamsize>(image->rgb.size()));
    }
    std::cout.flush();
  }
}
