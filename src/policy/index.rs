//! The head index: from a request to the policies that can matter to it.
