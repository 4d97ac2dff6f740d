// From a degree known at run time to code compiled for that degree.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <type_traits>

// body(std::integral_constant<int, DEGREE>)
template <typename Body>
void with_degree(int64_t sh_degree, Body body) {
    switch (sh_degree) {
        case 0: return body(std::integral_constant<int, 0>());
        case 1: return body(std::integral_constant<int, 1>());
        case 2: return body(std::integral_constant<int, 2>());
        case 3: return body(std::integral_constant<int, 3>());
        default: throw std::invalid_argument("sh_degree must be 0, 1, 2 or 3");
    }
}
