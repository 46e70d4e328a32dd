"""Program that decides how many units each group keeps."""
