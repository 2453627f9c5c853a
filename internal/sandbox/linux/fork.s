// This file is empty on purpose: its presence lets fork.go declare functions whose bodies are in the runtime.
