// The constants of the picture's definition; Python reads them through dgr_constants().
#pragma once

namespace constants {
constexpr int TILE = 16;                    // pixels a side; culling is exact, so the picture does not depend on it
constexpr double NEAR_PLANE = 0.2;          // camera z at or below which a Gaussian is skipped
constexpr double DILATION = 0.3;            // pixels^2 added to both variances: a splat is never thinner than a pixel
constexpr double ALPHA_MIN = 1.0 / 255.0;   // below it a Gaussian does not touch a pixel: 8 bits could not show it
constexpr double ALPHA_MAX = 0.99;          // keeps 1 - alpha away from 0, by which the gradient divides
constexpr double TRANSMITTANCE_MIN = 1e-4;  // a pixel stops before the Gaussian that would bring it below
constexpr double JACOBIAN_LIMIT = 1.3;      // x/z and y/z in the Jacobian stay within this times tan(field of view / 2)
constexpr double RADIUS_SIGMAS = 3.0;       // reported radius, in standard deviations along the longer axis
constexpr double DISCRIMINANT_MIN = 0.1;    // floor under the square root of the eigenvalue formula of that radius

constexpr double LOG2_E = 1.4426950408889634;
constexpr double LOG2_ALPHA_MIN = -7.994353436858858;  // log2(1 / 255)
}  // namespace constants
