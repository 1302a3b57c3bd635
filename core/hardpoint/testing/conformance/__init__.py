"""What every platform must do, as functions that a platform's own tests call with its parts."""
