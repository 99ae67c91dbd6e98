// The part of the library that is a file of its own; see build.mjs.

import "temml/src/buildMathML.js";
import "temml/src/macros.js";
import "temml/src/stretchy.js";
