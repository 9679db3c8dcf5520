"""BLIP3o: a frozen Qwen2.5-VL, a Lumina-Next prior over EVA-CLIP features, and a pixel decoder."""
