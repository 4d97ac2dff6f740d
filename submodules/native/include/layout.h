// What both sides of the C interface must agree on, as text for _native.load(): structures that Python mirrors, with the
// place of every field, and constants; a line "name value" each.
#pragma once

#include <cstddef>
#include <cstdio>
#include <string>

class Layout {
  public:
    // Of the structure S, whose name in Python is `name`; fields follow as AT(field).
    template <typename S>
    Layout& structure(const char* name) {
        structure_ = name;
        return add(structure_, sizeof(S));
    }
    Layout& field(const char* name, size_t place) { return add(structure_ + "." + name, double(place)); }
    Layout& add(const std::string& name, double value) {
        char number[32];
        std::snprintf(number, sizeof number, "%.17g", value);
        text_ += name + " " + number + "\n";
        return *this;
    }
    const std::string& text() const { return text_; }

  private:
    std::string structure_, text_;
};

// Within a scope that calls the structure S.
#define AT(name) .field(#name, offsetof(S, name))
#define CONSTANT(name) .add(#name, double(name))
