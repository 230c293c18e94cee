"""From files and strings to the tensors that ImageBind takes, as the published weights expect them."""
