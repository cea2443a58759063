// This file lets the package declare functions without bodies (tape.go links them by name).
