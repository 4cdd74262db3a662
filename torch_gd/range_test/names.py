"""What other libraries call the arguments of a range test, and what they are called here."""

RIGHT_NAMES = {
    **dict.fromkeys(("min_lr", "init_value", "lr_min"), ("start_lr", "pass start_lr=…, the first rate")),
    **dict.fromkeys(("max_lr", "final_value", "lr_max"), ("end_lr", "pass end_lr=…, the last rate")),
    **dict.fromkeys(
        ("num_iter", "num_it", "num_iters", "num_training", "num_steps", "iterations"),
        ("steps", "pass steps=…, the number of mini-batches"),
    ),
    **dict.fromkeys(("smooth_f", "beta"), ("smoothing", "pass smoothing=…, the weight of the past, in [0, 1)")),
    **dict.fromkeys(
        ("diverge_th", "early_stop_threshold", "stop_div"),
        ("divergence", "pass divergence=…, a multiple of the lowest loss, or inf to go on to the last rate"),
    ),
    **dict.fromkeys(("criterion", "loss_func", "loss"), ("loss_fn", "pass loss_fn=…, as the third argument")),
    **dict.fromkeys(
        ("train_loader", "dataloader", "data_loader", "train_dataloaders", "dls"),
        ("loader", "pass loader=…, as the fourth argument"),
    ),
    **dict.fromkeys(("show_plot", "show"), ("plot", "pass plot=…, the file to draw to")),
}
"""By the wrong name: the right one, and advice that mentions it."""
