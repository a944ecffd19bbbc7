// Digests that name bytes: SHA-256. The only place that touches the library behind it.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

namespace keye {

/// 256 bits that stand for some bytes: nobody can find other bytes with the same digest.
struct Digest {
  std::array<uint8_t, 32> bytes{};

  auto operator<=>(const Digest&) const = default;
  /// 64 lower-case hexadecimal digits.
  std::string hex() const;
};

/// For unordered containers.
struct DigestHash {
  size_t operator()(const Digest& digest) const {
    size_t hash = 0;
    std::memcpy(&hash, digest.bytes.data(), sizeof hash);
    return hash;
  }
};

class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;

  Sha256& add(std::span<const std::byte> bytes);
  /// A length, then the bytes, so that neighbouring texts cannot run into each other.
  Sha256& add_text(std::string_view text);
  /// The bytes of a number as this machine stores it.
  template <class T>
  Sha256& add_value(const T& value) {
    static_assert(std::is_arithmetic_v<T>);
    return add(std::as_bytes(std::span(&value, 1)));
  }
  /// The digest of all that was added; the next one begins.
  Digest finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

Digest sha256(std::span<const std::byte> bytes);

/// Whether both are the same, in a time that does not tell where they differ: for secrets.
bool equal_secrets(std::string_view a, std::string_view b);

/// Bytes that nobody can guess, from the system.
std::array<uint8_t, 16> random_bytes();

}  // namespace keye
