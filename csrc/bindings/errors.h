#pragma once

namespace pygrok {

// Makes every exception of the library arrive in Python as the class of its name in pygrok.errors, and
// std::system_error as OSError with its errno.
void RegisterErrors();

}  // namespace pygrok
