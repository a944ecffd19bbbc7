# One static library per room of src/. A room may link, and so include, only the rooms it names; scripts/check_layers
# holds the #include lines to the same table.

find_package(Threads REQUIRED)

add_library(keye_flags INTERFACE)
target_compile_features(keye_flags INTERFACE cxx_std_20)
target_compile_options(keye_flags INTERFACE
  -Wall -Wextra -Wconversion -Wshadow -Werror -Wno-sign-conversion -Wno-missing-field-initializers  # designated initializers leave out what has a default
  -ffp-contract=off              # a*b+c is fused only where the code says so: results must not depend on the compiler's mood
  -fno-math-errno
  $<$<CXX_COMPILER_ID:Clang>:-Wno-unknown-warning-option>  # GCC's names in -Wno-... of single files
  $<$<CONFIG:Debug>:-O1>)
if(KEYE_SANITIZE)
  target_compile_options(keye_flags INTERFACE -fsanitize=${KEYE_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(keye_flags INTERFACE -fsanitize=${KEYE_SANITIZE})
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND KEYE_SANITIZE MATCHES "thread")
    # asio's fences, which ThreadSanitizer does not see; what they order is under a mutex, too.
    target_compile_options(keye_flags INTERFACE -Wno-tsan)
  endif()
endif()
if(KEYE_FUZZ)
  target_compile_options(keye_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()
target_include_directories(keye_flags INTERFACE ${CMAKE_SOURCE_DIR}/src)

# keye_room(NAME SOURCES ... ROOMS ... LIBRARIES ...): the library keye_NAME.
# ROOMS are other rooms; LIBRARIES are third-party and stay private to the room.
function(keye_room name)
  cmake_parse_arguments(ARG "" "" "SOURCES;ROOMS;LIBRARIES;PUBLIC_LIBRARIES" ${ARGN})
  add_library(keye_${name} STATIC ${ARG_SOURCES})
  target_link_libraries(keye_${name} PUBLIC keye_flags ${ARG_PUBLIC_LIBRARIES} PRIVATE ${ARG_LIBRARIES})
  foreach(room ${ARG_ROOMS})
    target_link_libraries(keye_${name} PUBLIC keye_${room})
  endforeach()
endfunction()

# keye_test(NAME SOURCES ... ROOMS ... [LABELS ...]): a GoogleTest program run by ctest. Its file paths start from the
# source directory, which is the working directory of every test.
function(keye_test name)
  if(NOT KEYE_TESTS)
    return()
  endif()
  cmake_parse_arguments(ARG "" "" "SOURCES;ROOMS;LIBRARIES;LABELS" ${ARGN})
  find_package(GTest REQUIRED)
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE keye_flags GTest::gtest GTest::gmock GTest::gtest_main ${ARG_LIBRARIES})
  foreach(room ${ARG_ROOMS})
    target_link_libraries(${name} PRIVATE keye_${room})
  endforeach()
  add_test(NAME ${name} COMMAND ${name} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT 600)
endfunction()

# keye_fuzz(NAME SOURCES ... ROOMS ...): a libFuzzer program, only in the fuzz preset. `fuzzers` builds all of them, into
# the folder where scripts/test --fuzz looks.
function(keye_fuzz name)
  if(NOT KEYE_FUZZ)
    return()
  endif()
  cmake_parse_arguments(ARG "" "" "SOURCES;ROOMS;LIBRARIES" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE keye_flags ${ARG_LIBRARIES})
  target_link_options(${name} PRIVATE -fsanitize=fuzzer)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/fuzzers)
  if(NOT TARGET fuzzers)
    add_custom_target(fuzzers)
  endif()
  add_dependencies(fuzzers ${name})
  foreach(room ${ARG_ROOMS})
    target_link_libraries(${name} PRIVATE keye_${room})
  endforeach()
endfunction()
