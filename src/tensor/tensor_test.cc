#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "tensor/safetensors.h"
#include "tensor/tensor.h"

namespace keye {
namespace {

std::string file_of(std::string header, size_t data_bytes) {
  std::string out;
  for (size_t i = 0; i < 8; ++i) out.push_back(static_cast<char>((header.size() >> (8 * i)) & 0xff));
  return out + header + std::string(data_bytes, '\1');
}

Result<TensorFile> open_bytes(const std::string& bytes) {
  const Path path = Path(testing::TempDir()) / "keye_tensor_test.safetensors";
  EXPECT_TRUE(write_file(path, bytes));
  return TensorFile::open(path);
}

TEST(DType, RoundsBFloat16ToNearestEven) {
  EXPECT_EQ(BFloat16(1.0F).bits, 0x3f80);
  EXPECT_EQ(BFloat16(1.00390625F).bits, 0x3f80);  // halfway, down to even
  EXPECT_EQ(BFloat16(1.01171875F).bits, 0x3f82);  // halfway, up to even
  EXPECT_EQ(BFloat16(3.4e38F).bits, 0x7f80);      // overflows to infinity
  EXPECT_TRUE(std::isnan(static_cast<float>(BFloat16(std::numeric_limits<float>::quiet_NaN()))));
}

TEST(DType, F8RoundsToNearestEven) {
  for (int code = 0; code < 256; ++code) {
    const float value = f8_to_float(static_cast<uint8_t>(code));
    if ((code & 0x7f) == 0x7f) {
      EXPECT_TRUE(std::isnan(value));
      continue;
    }
    EXPECT_EQ(float_to_f8(value), code);
    if ((code & 0x7f) == 0x7e) continue;
    // Half way to the next code goes to the even one, and everything else to the nearer.
    const float next = f8_to_float(static_cast<uint8_t>(code + 1));
    const float half = (value + next) / 2;
    EXPECT_EQ(float_to_f8(half), code % 2 == 0 ? code : code + 1) << code;
    EXPECT_EQ(float_to_f8(std::nextafter(half, value)), code) << code;
    EXPECT_EQ(float_to_f8(std::nextafter(half, next)), code + 1) << code;
  }
  EXPECT_EQ(f8_to_float(0x7e), kF8Max);
  EXPECT_EQ(f8_to_float(0x01), 0x1p-9F);
  EXPECT_EQ(float_to_f8(1e30F), 0x7e);
  EXPECT_EQ(float_to_f8(-INFINITY), 0xfe);
  EXPECT_EQ(float_to_f8(NAN) & 0x7f, 0x7f);
  EXPECT_EQ(float_to_f8(-1e-30F), 0x80);
}

TEST(DType, F16) {
  EXPECT_EQ(f16_to_float(0x3c00), 1.0F);
  EXPECT_EQ(f16_to_float(0xc000), -2.0F);
  EXPECT_EQ(f16_to_float(0x0001), std::ldexp(1.0F, -24));
  EXPECT_EQ(f16_to_float(0x7bff), 65504.0F);
  EXPECT_TRUE(std::isinf(f16_to_float(0x7c00)));
}

TEST(Safetensors, RoundTrip) {
  Tensor a(DType::f32, {2, 3});
  for (int i = 0; i < 6; ++i) a.as<float>()[i] = static_cast<float>(i);
  Tensor b(DType::i64, {1});
  const Path path = Path(testing::TempDir()) / "keye_roundtrip.safetensors";
  ASSERT_TRUE(write_safetensors(path, {{"a", a.view()}, {"b", b.view()}}));
  auto file = TensorFile::open(path);
  ASSERT_TRUE(file) << file.error().to_string();
  const ConstView read = file->tensors().at("a");
  EXPECT_EQ(read.shape, (Shape{2, 3}));
  EXPECT_EQ(std::memcmp(read.data, a.view().data, 24), 0);
}

TEST(Safetensors, RefusesLyingHeaders) {
  const std::string entry = R"("dtype":"F32","shape":[2],"data_offsets":)";
  struct Case {
    std::string bytes, expect;
  };
  std::string giant = file_of("{}", 0);
  giant[6] = '\x7f';
  const Case cases[] = {
      {"abc", "too few"},
      {giant, "claims a header of"},
      {file_of("{", 0), "not valid JSON"},
      {file_of("[]", 0), "not a JSON object"},
      {file_of("{\"a\":{" + entry + "[0,8]}}", 4), "truncated or damaged"},
      {file_of("{\"a\":{" + entry + "[0,4]}}", 8), "do not hold"},
      {file_of("{\"a\":{" + entry + "[8,0]}}", 8), "do not hold"},
      {file_of("{\"a\":{" + entry + "[0,8]},\"b\":{" + entry + "[4,12]}}", 16), "overlap"},
      {file_of("{\"a\":{" + entry + "[0,8]},\"a\":{" + entry + "[8,16]}}", 16), "appears twice"},
      {file_of(R"({"a":{"dtype":"Q4","shape":[2],"data_offsets":[0,8]}})", 8), "dtype \"Q4\""},
      {file_of(R"({"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", 8), "not a whole number"},
      {file_of(R"({"a":{"dtype":"F32","shape":[4294967295,4294967295],"data_offsets":[0,8]}})", 8), "larger than any"},
      {file_of(R"({"a":{"dtype":"F32","data_offsets":[0,8]}})", 8), "no \"shape\""},
      {file_of(R"({"a":3})", 8), "not an object"},
  };
  for (const Case& c : cases) {
    auto file = open_bytes(c.bytes);
    ASSERT_FALSE(file) << c.expect;
    EXPECT_NE(file.error().to_string().find(c.expect), std::string::npos) << file.error().to_string();
  }
}

TEST(View, RowsAndReshape) {
  Tensor t(DType::bf16, {4, 3});
  EXPECT_EQ(rows(t.view(), 1, 3).shape, (Shape{2, 3}));
  EXPECT_EQ(rows(t.view(), 1, 3).data, t.as<BFloat16>() + 3);
  EXPECT_EQ(reshape(t.view(), {2, 6}).shape, (Shape{2, 6}));
}

}  // namespace
}  // namespace keye
