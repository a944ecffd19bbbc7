#include "text/unicode.h"

#include <unicode/bytestream.h>
#include <unicode/edits.h>
#include <unicode/normalizer2.h>
#include <unicode/uniset.h>

#include <algorithm>

#include "base/check.h"

namespace keye::text {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

bool is_continuation(unsigned char byte) { return (byte & 0xC0) == 0x80; }

const icu::Normalizer2* full_normalizer(NormalForm form) {
  UErrorCode status = U_ZERO_ERROR;
  const icu::Normalizer2* normalizer = nullptr;
  switch (form) {
    case NormalForm::nfc:
      normalizer = icu::Normalizer2::getNFCInstance(status);
      break;
    case NormalForm::nfd:
      normalizer = icu::Normalizer2::getNFDInstance(status);
      break;
    case NormalForm::nfkc:
      normalizer = icu::Normalizer2::getNFKCInstance(status);
      break;
    case NormalForm::nfkd:
      normalizer = icu::Normalizer2::getNFKDInstance(status);
      break;
  }
  KEYE_CHECK(U_SUCCESS(status), "ICU has no normalisation data: {}", u_errorName(status));
  return normalizer;
}

/// The characters of Unicode 9.0.
const icu::UnicodeSet& old_characters() {
  static const icu::UnicodeSet* const set = [] {
    UErrorCode status = U_ZERO_ERROR;
    auto* made = new icu::UnicodeSet(UNICODE_STRING_SIMPLE("[:age=9.0:]"), status);
    KEYE_CHECK(U_SUCCESS(status), "ICU has no ages of characters: {}", u_errorName(status));
    made->freeze();
    return made;
  }();
  return *set;
}

char most_restricted(std::string_view origins) {
  char most = kOriginEngine;
  for (const char origin : origins) {
    if (origin == kOriginUser) return kOriginUser;
    if (origin != kOriginEngine) most = origin;
  }
  return most;
}

/// The origin of a normalised text, from ICU's list of what was replaced by what.
std::string carry_origin(const icu::Edits& edits, std::string_view origin) {
  std::string carried;
  UErrorCode status = U_ZERO_ERROR;
  for (icu::Edits::Iterator edit = edits.getFineIterator(); edit.next(status);) {
    const auto from = static_cast<size_t>(edit.sourceIndex());
    const std::string_view old = origin.substr(from, static_cast<size_t>(edit.oldLength()));
    if (edit.hasChange()) {
      carried.append(static_cast<size_t>(edit.newLength()), most_restricted(old));
    } else {
      carried += old;
    }
  }
  KEYE_CHECK(U_SUCCESS(status), "ICU lost its edits: {}", u_errorName(status));
  return carried;
}

}  // namespace

Utf8Step utf8_step(std::string_view text) {
  using Kind = Utf8Step::Kind;
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return {Kind::character, 1, lead};
  if (lead < 0xC2 || lead > 0xF4) return {Kind::invalid, 1, 0};
  // The second byte's range is narrower after some leads: no overlong forms, no surrogates, nothing over U+10FFFF.
  const unsigned char low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const unsigned char high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  const uint8_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  char32_t code_point = lead & (0x7F >> length);
  for (uint8_t i = 1; i < length; ++i) {
    if (i == text.size()) return {Kind::incomplete, i, 0};
    const bool fits = i == 1 ? byte(1) >= low && byte(1) <= high : is_continuation(byte(i));
    if (!fits) return {Kind::invalid, i, 0};
    code_point = code_point << 6 | (byte(i) & 0x3F);
  }
  return {Kind::character, length, code_point};
}

bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    if (static_cast<unsigned char>(text.front()) < 0x80) {
      text.remove_prefix(1);
      continue;
    }
    const Utf8Step step = utf8_step(text);
    if (step.kind != Utf8Step::Kind::character) return false;
    text.remove_prefix(step.bytes);
  }
  return true;
}

void append_utf8(char32_t c, std::string& out) {
  const auto put = [&](char32_t byte) { out += static_cast<char>(static_cast<unsigned char>(byte)); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | c >> 6);
    put(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    put(0xE0 | c >> 12);
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  } else {
    put(0xF0 | c >> 18);
    put(0x80 | (c >> 12 & 0x3F));
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  }
}

size_t append_valid_utf8(std::string_view bytes, std::string& out) {
  size_t used = 0;
  while (used < bytes.size()) {
    const Utf8Step step = utf8_step(bytes.substr(used));
    if (step.kind == Utf8Step::Kind::incomplete) break;
    out += step.kind == Utf8Step::Kind::character ? bytes.substr(used, step.bytes) : kReplacement;
    used += step.bytes;
  }
  return used;
}

Marked repair_utf8(std::string_view text, std::string_view origin) {
  Marked repaired;
  while (!text.empty()) {
    const Utf8Step step = utf8_step(text);
    const char from = origin.empty() ? kOriginEngine : origin.front();
    if (step.kind == Utf8Step::Kind::character) {
      for (size_t i = 0; i < step.bytes; ++i) repaired.append(text.substr(i, 1), origin.empty() ? from : origin[i]);
    } else {
      repaired.append(kReplacement, from);
    }
    text.remove_prefix(step.bytes);
    if (!origin.empty()) origin.remove_prefix(step.bytes);
  }
  return repaired;
}

void CodePoints::assign(std::string_view text) {
  values.resize(text.size());
  starts.resize(text.size() + 1);
  size_t count = 0;
  size_t at = 0;
  while (at < text.size()) {
    starts[count] = static_cast<uint32_t>(at);
    const auto lead = static_cast<unsigned char>(text[at]);
    const auto next = [&](size_t i) { return static_cast<char32_t>(text[at + i] & 0x3F); };
    if (lead < 0x80) {
      values[count++] = lead;
      at += 1;
    } else if (lead < 0xE0) {
      values[count++] = static_cast<char32_t>(lead & 0x1F) << 6 | next(1);
      at += 2;
    } else if (lead < 0xF0) {
      values[count++] = static_cast<char32_t>(lead & 0x0F) << 12 | next(1) << 6 | next(2);
      at += 3;
    } else {
      values[count++] = static_cast<char32_t>(lead & 0x07) << 18 | next(1) << 12 | next(2) << 6 | next(3);
      at += 4;
    }
  }
  starts[count] = static_cast<uint32_t>(text.size());
  values.resize(count);
  starts.resize(count + 1);
}

bool is_surely_normalized(NormalForm form, std::string_view text) {
  const bool ascii = std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
  if (ascii) return true;
  // What is normalised by newer data is so by older data too: each stretch between newer characters is a stretch of a
  // normalised text.
  UErrorCode status = U_ZERO_ERROR;
  return full_normalizer(form)->isNormalizedUTF8({text.data(), static_cast<int32_t>(text.size())}, status) &&
         U_SUCCESS(status);
}

Marked normalize(NormalForm form, std::string_view text, std::string_view origin) {
  KEYE_CHECK(text.size() <= kNormalizeBytesMax, "{} bytes", text.size());
  const icu::FilteredNormalizer2 normalizer(*full_normalizer(form), old_characters());
  UErrorCode status = U_ZERO_ERROR;
  Marked normal;
  icu::StringByteSink<std::string> sink(&normal.text);
  icu::Edits edits;
  normalizer.normalizeUTF8(0, {text.data(), static_cast<int32_t>(text.size())}, sink, origin.empty() ? nullptr : &edits,
                           status);
  KEYE_CHECK(U_SUCCESS(status), "ICU cannot normalise {} bytes: {}", text.size(), u_errorName(status));
  if (!origin.empty()) {
    normal.origin = carry_origin(edits, origin);
    KEYE_CHECK(normal.origin.size() == normal.text.size());
  }
  return normal;
}

}  // namespace keye::text
