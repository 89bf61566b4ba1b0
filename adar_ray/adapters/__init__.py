"""Models of other libraries, trained on our datasets. Each library is an optional extra."""
