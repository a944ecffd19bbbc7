#include "base/hash.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>

#include "base/check.h"

namespace keye {

struct Sha256::State {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  ~State() { EVP_MD_CTX_free(context); }
};

namespace {

/// Looked up once: a page's key is 400 bytes, and the look-up would cost as much as the digest.
const EVP_MD* algorithm() {
  static EVP_MD* const fetched = EVP_MD_fetch(nullptr, "SHA256", nullptr);
  return fetched;
}

void begin(EVP_MD_CTX* context) {
  KEYE_CHECK(context != nullptr && EVP_DigestInit_ex2(context, algorithm(), nullptr) == 1, "SHA-256 is not there");
}

}  // namespace

std::string Digest::hex() const {
  std::string text;
  for (const uint8_t byte : bytes) text += fmt::format("{:02x}", byte);
  return text;
}

Sha256::Sha256() : state_(std::make_unique<State>()) { begin(state_->context); }
Sha256::~Sha256() = default;

Sha256& Sha256::add(std::span<const std::byte> bytes) {
  KEYE_CHECK(EVP_DigestUpdate(state_->context, bytes.data(), bytes.size()) == 1);
  return *this;
}

Sha256& Sha256::add_text(std::string_view text) {
  add_value(uint64_t{text.size()});
  return add(std::as_bytes(std::span(text)));
}

Digest Sha256::finish() {
  Digest digest;
  KEYE_CHECK(EVP_DigestFinal_ex(state_->context, digest.bytes.data(), nullptr) == 1);
  begin(state_->context);
  return digest;
}

Digest sha256(std::span<const std::byte> bytes) { return Sha256().add(bytes).finish(); }

bool equal_secrets(std::string_view a, std::string_view b) {
  // Digests have one length, so that not even a length is told.
  const Digest left = sha256(std::as_bytes(std::span(a)));
  const Digest right = sha256(std::as_bytes(std::span(b)));
  return CRYPTO_memcmp(left.bytes.data(), right.bytes.data(), left.bytes.size()) == 0;
}

std::array<uint8_t, 16> random_bytes() {
  std::array<uint8_t, 16> bytes{};
  KEYE_CHECK(RAND_bytes(bytes.data(), static_cast<int>(bytes.size())) == 1, "the system gives no random bytes");
  return bytes;
}

}  // namespace keye
