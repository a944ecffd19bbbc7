#include "text/bpe.h"

#include <algorithm>
#include <bit>
#include <functional>

#include "base/check.h"
#include "text/byte_alphabet.h"
#include "text/json_fields.h"
#include "text/unicode.h"

namespace keye::text {
namespace {

constexpr size_t kSeenWords = 1 << 13;
constexpr size_t kSeenWordBytesMax = 64;
constexpr size_t kSeenTextBytesMin = 2048;  // shorter texts repeat too little to be worth the table

/// The two tokens of a merge, written as "a b" or as ["a", "b"].
std::optional<std::pair<std::string, std::string>> read_pair(const Json& merge, bool spaced) {
  if (spaced && merge.is_string()) {
    const auto& text = merge.get_ref<const std::string&>();
    const size_t space = text.find(' ');
    if (space != std::string::npos && text.find(' ', space + 1) == std::string::npos) {
      return std::pair(text.substr(0, space), text.substr(space + 1));
    }
  } else if (!spaced && merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
    return std::pair(merge[0].get<std::string>(), merge[1].get<std::string>());
  }
  return std::nullopt;
}

Result<void> refuse_affix(const JsonFields& fields, std::string_view name) {
  if (fields.find(name) == nullptr) return {};
  KEYE_TRY(const std::string affix, fields.string(name));
  if (affix.empty()) return {};
  return make_error(ErrorCode::unsupported, fields.where(name), "\"{}\" is not supported, only none or an empty one",
                    affix);
}

}  // namespace

MergeTable::MergeTable(size_t merges) {
  const size_t size = std::bit_ceil(merges * 2 + 2);
  shift_ = 64 - std::countr_zero(size);
  slots_.resize(size);
  products_.reserve(merges);
}

void MergeTable::set(int32_t left, int32_t right, uint32_t rank, int32_t product) {
  KEYE_CHECK(rank == products_.size() && rank * size_t{2} < slots_.size(), "rank {}", rank);
  const uint64_t key = key_of(left, right);
  slots_[slot_of(key)] = {key, rank};
  products_.push_back(product);
}

Result<Bpe> Bpe::parse(const Json& model, const std::string& where) {
  KEYE_TRY(const JsonFields fields,
           JsonFields::open(model, where,
                            {"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
                             "fuse_unk", "byte_fallback", "ignore_merges", "vocab", "merges"}));
  if (fields.find("type") != nullptr) {
    KEYE_TRY(const std::string type, fields.string("type"));
    if (type != "BPE")
      return make_error(ErrorCode::unsupported, where, "model \"{}\" is not supported, only BPE", type);
  }
  KEYE_TRY_VOID(refuse_affix(fields, "continuing_subword_prefix"));
  KEYE_TRY_VOID(refuse_affix(fields, "end_of_word_suffix"));
  KEYE_TRY(const bool byte_fallback, fields.boolean("byte_fallback", false));
  if (byte_fallback) return make_error(ErrorCode::unsupported, fields.where("byte_fallback"), "is not supported");
  if (const Json* const dropout = fields.find("dropout"); dropout != nullptr && *dropout != 0) {
    return make_error(ErrorCode::unsupported, fields.where("dropout"), "is not supported");
  }

  KEYE_TRY(const Json* const merges, fields.array("merges"));
  Bpe bpe(merges->size());
  KEYE_TRY(bpe.fuse_unknown_, fields.boolean("fuse_unk", false));
  KEYE_TRY(bpe.whole_words_first_, fields.boolean("ignore_merges", false));
  KEYE_TRY(const Json* const vocabulary, fields.need("vocab"));
  const std::string vocabulary_where = fields.where("vocab");
  if (!vocabulary->is_object()) {
    return make_error(ErrorCode::corrupt_data, vocabulary_where, "expected an object, found {}",
                      vocabulary->type_name());
  }
  for (const auto& [token, id] : vocabulary->items()) {
    if (!id.is_number_integer() || (id.is_number_unsigned() && id.get<uint64_t>() > INT64_MAX)) {
      return make_error(ErrorCode::corrupt_data, vocabulary_where, "token \"{}\" has id {}, expected 0 to {}", token,
                        show_json(id), kTokenIdEnd - 1);
    }
    KEYE_TRY_VOID(bpe.vocabulary_.add(token, id.get<int64_t>(), vocabulary_where));
  }
  KEYE_TRY_VOID(bpe.read_merges(*merges, fields.where("merges")));

  for (int byte = 0; byte < 256; ++byte) {
    std::string letter;
    append_utf8(letter_of_byte(static_cast<uint8_t>(byte)), letter);
    bpe.byte_ids_[static_cast<size_t>(byte)] = bpe.vocabulary_.find(letter).value_or(-1);
  }
  if (fields.find("unk_token") != nullptr) {
    KEYE_TRY(const std::string unknown, fields.string("unk_token"));
    const std::optional<int32_t> id = bpe.vocabulary_.find(unknown);
    if (!id) return make_error(ErrorCode::corrupt_data, fields.where("unk_token"), "\"{}\" is not in vocab", unknown);
    bpe.unknown_id_ = *id;
  }
  return bpe;
}

Result<void> Bpe::read_merges(const Json& merges, const std::string& where) {
  const bool spaced = !merges.empty() && merges[0].is_string();
  uint32_t rank = 0;
  for (size_t i = 0; i < merges.size(); ++i) {
    const Json& merge = merges[i];
    // The first line of the older format's file.
    if (spaced && merge.is_string() && merge.get_ref<const std::string&>().starts_with("#version")) continue;
    const auto read = read_pair(merge, spaced);
    if (!read) {
      return make_error(ErrorCode::corrupt_data, fmt::format("{}[{}]", where, i), "expected {}, found {}",
                        spaced ? "two tokens with a space between" : "an array of two tokens", show_json(merge));
    }
    const auto& [left, right] = *read;
    const std::optional<int32_t> left_id = vocabulary_.find(left);
    const std::optional<int32_t> right_id = vocabulary_.find(right);
    const std::optional<int32_t> product = vocabulary_.find(left + right);
    if (!left_id || !right_id || !product) {
      return make_error(ErrorCode::corrupt_data, fmt::format("{}[{}]", where, i), "\"{}\" is not in vocab",
                        !left_id    ? left
                        : !right_id ? right
                                    : left + right);
    }
    merges_.set(*left_id, *right_id, rank++, *product);
  }
  return {};
}

BpeEncoder::BpeEncoder(const Bpe& bpe, std::vector<int32_t>& ids, size_t bytes) : bpe_(bpe), ids_(ids) {
  if (bytes >= kSeenTextBytesMin) seen_.resize(std::min(kSeenWords, std::bit_ceil(bytes / 8)));
}

void BpeEncoder::encode(std::string_view word) {
  if (word.size() > kSeenWordBytesMax || seen_.empty()) return encode_new(word);
  Seen& seen = seen_[std::hash<std::string_view>()(word) & (seen_.size() - 1)];
  if (seen.word == word) {
    ids_.resize(ids_.size() + seen.count);
    std::copy_n(ids_.begin() + static_cast<ptrdiff_t>(seen.begin), seen.count,
                ids_.end() - static_cast<ptrdiff_t>(seen.count));
    return;
  }
  const size_t begin = ids_.size();
  encode_new(word);
  seen = {word, begin, ids_.size() - begin};
}

void BpeEncoder::encode_new(std::string_view word) {
  if (bpe_.whole_words_first_) {
    if (const std::optional<int32_t> id = bpe_.vocabulary_.find(spell_bytes(word))) {
      ids_.push_back(*id);
      return;
    }
  }
  spell(word);
  merge_all();
  for (const Symbol& symbol : symbols_) {
    if (symbol.alive) ids_.push_back(symbol.id);
  }
}

void BpeEncoder::spell(std::string_view word) {
  symbols_.clear();
  bool unknown = false;  // an unknown token is due
  for (const char byte : word) {
    const int32_t id = bpe_.byte_ids_[static_cast<uint8_t>(byte)];
    if (id >= 0) {
      if (unknown) add_symbol(bpe_.unknown_id_);
      unknown = false;
      add_symbol(id);
    } else if (bpe_.unknown_id_ >= 0) {
      if (unknown && !bpe_.fuse_unknown_) add_symbol(bpe_.unknown_id_);
      unknown = true;
    }
  }
  if (unknown) add_symbol(bpe_.unknown_id_);
}

void BpeEncoder::add_symbol(int32_t id) {
  const auto position = static_cast<int32_t>(symbols_.size());
  if (position > 0) symbols_.back().next = position;
  symbols_.push_back({id, position - 1, -1, MergeTable::kNone, true});
}

void BpeEncoder::queue_pair(int32_t position) {
  Symbol& symbol = symbols_[static_cast<size_t>(position)];
  symbol.rank = bpe_.merges_.rank(symbol.id, symbols_[static_cast<size_t>(symbol.next)].id);
  if (symbol.rank == MergeTable::kNone) return;
  queue_.push_back(static_cast<uint64_t>(symbol.rank) << 32 | static_cast<uint32_t>(position));
  std::push_heap(queue_.begin(), queue_.end(), std::greater<>());
}

void BpeEncoder::merge_all() {
  queue_.clear();
  for (size_t i = 0; i + 1 < symbols_.size(); ++i) queue_pair(static_cast<int32_t>(i));
  while (!queue_.empty()) {
    const uint64_t first = queue_.front();
    std::pop_heap(queue_.begin(), queue_.end(), std::greater<>());
    queue_.pop_back();
    const auto rank = static_cast<uint32_t>(first >> 32);
    const auto position = static_cast<int32_t>(first & UINT32_MAX);
    Symbol& symbol = symbols_[static_cast<size_t>(position)];
    if (symbol.rank != rank) continue;  // the pair has changed since it was queued

    Symbol& gone = symbols_[static_cast<size_t>(symbol.next)];
    gone.alive = false;
    gone.rank = MergeTable::kNone;
    symbol.id = bpe_.merges_.product(rank);
    symbol.next = gone.next;
    symbol.rank = MergeTable::kNone;
    if (symbol.previous >= 0) queue_pair(symbol.previous);
    if (symbol.next >= 0) {
      symbols_[static_cast<size_t>(symbol.next)].previous = position;
      queue_pair(position);
    }
  }
}

}  // namespace keye::text
